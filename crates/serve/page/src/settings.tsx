// Dialogs of the page: settings of the conversation and of the page, and help.
import { useState } from 'preact/hooks';
import { ApiError, send } from './api';
import { changed, current } from './chats';
import { RANGES, type Settings } from './conversation';
import { Dialog, Field } from './dialog';
import { download } from './download';
import { userKey } from './keys';
import { session } from './session';
import { type Theme, setTheme, theme } from './theme';
import { type Language, en, language, setLanguage, t, zh } from './texts';

const NAMES = Object.keys(RANGES) as (keyof Settings)[];

function Sampling() {
  const conversation = current.use();
  const [written, setWritten] = useState<Partial<Record<keyof Settings, string>>>({});
  const set = (name: keyof Settings, text: string) => {
    setWritten({ ...written, [name]: text });
    const { min, max, step } = RANGES[name];
    const number = Number(text);
    const { [name]: _, ...others } = conversation.settings;
    const fits = text.trim() !== '' && number >= min && number <= max && (step < 1 || Number.isInteger(number));
    changed(Object.assign(conversation, { settings: fits ? { ...others, [name]: number } : others }));
  };
  const problem = (name: keyof Settings) => {
    const text = written[name]?.trim();
    if (!text || conversation.settings[name] !== undefined) return undefined;
    return t('outOfRange', { min: RANGES[name].min, max: RANGES[name].max });
  };
  return (
    <fieldset>
      <legend>{t('sampling')}</legend>
      <p class="hint">{t('samplingHint')}</p>
      <div class="grid">
        {NAMES.map((name) => (
          <Field key={name} label={t(name)} problem={problem(name)}>
            {(field) => (
              <input
                {...field}
                inputMode="decimal"
                autocomplete="off"
                value={written[name] ?? conversation.settings[name] ?? ''}
                onInput={(event) => set(name, event.currentTarget.value)}
              />
            )}
          </Field>
        ))}
      </div>
      <button
        type="button"
        class="small"
        onClick={() => {
          setWritten({});
          changed(Object.assign(conversation, { settings: {} }));
        }}
      >
        {t('reset')}
      </button>
    </fieldset>
  );
}

export function PageSettings() {
  const themes = { system: 'themeSystem', light: 'themeLight', dark: 'themeDark' } as const;
  return (
    <div class="grid">
      <Field label={t('theme')}>
        {(field) => (
          <select {...field} value={theme.use()} onChange={(event) => setTheme(event.currentTarget.value as Theme)}>
            {(Object.keys(themes) as Theme[]).map((name) => (
              <option key={name} value={name}>
                {t(themes[name])}
              </option>
            ))}
          </select>
        )}
      </Field>
      <Field label={t('languageLabel')}>
        {(field) => (
          <select {...field} value={language.value} onChange={(event) => setLanguage(event.currentTarget.value as Language)}>
            <option value="en" lang="en">
              {en.language}
            </option>
            <option value="zh" lang="zh-CN">
              {zh.language}
            </option>
          </select>
        )}
      </Field>
    </div>
  );
}

export function SettingsDialog({ onClose }: { onClose: () => void }) {
  const conversation = current.use();
  return (
    <Dialog title={t('settings')} onClose={onClose}>
      <h3>{t('settingsOf')}</h3>
      <Field label={t('system')} hint={t('systemHint')}>
        {(field) => (
          <textarea {...field} rows={4} value={conversation.system} onInput={(event) => changed(Object.assign(conversation, { system: event.currentTarget.value }))} />
        )}
      </Field>
      <Sampling />
      <h3>{t('page')}</h3>
      <PageSettings />
    </Dialog>
  );
}

/** The API's description as a file: a link would go without the key. Where one is needed and not given, there is none. */
function ApiDescription() {
  const { state } = session.use();
  const [wrong, setWrong] = useState('');
  if (state !== 'ready') return null;
  const fetched = async () => {
    try {
      const response = await send('/openapi.json', { key: userKey.value });
      download('openapi.json', await response.text(), 'application/json');
      setWrong('');
    } catch (error) {
      setWrong(error instanceof ApiError && error.status === 0 ? t('errorNetwork') : t('errorSaid', { message: (error as Error).message }));
    }
  };
  return (
    <>
      <button type="button" class="small" onClick={() => void fetched()}>
        {t('api')}
      </button>
      {wrong && (
        <span class="problem" role="alert">
          {wrong}
        </span>
      )}
    </>
  );
}

export function HelpDialog({ onClose }: { onClose: () => void }) {
  const keys: [string[], string][] = [
    [['Enter'], t('keySend')],
    [['Shift', 'Enter'], t('keyNewline')],
    [['Esc'], t('keyStop')],
    [['/'], t('keyFocus')],
    [['↑'], t('keyEditLast')],
    [['n'], t('keyNew')],
    [['?'], t('keyHelp')],
  ];
  return (
    <Dialog title={t('help')} onClose={onClose}>
      <h3>{t('keys')}</h3>
      <table class="keys">
        <tbody>
          {keys.map(([names, what]) => (
            <tr key={what}>
              <th scope="row">
                {names.map((name) => (
                  <kbd key={name}>{name}</kbd>
                ))}
              </th>
              <td>{what}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p>{t('helpPrivacy')}</p>
      <p>{t('helpWrong')}</p>
      <h3>{t('page')}</h3>
      <PageSettings />
      <p class="links">
        <ApiDescription />
        <a href="/page/licences.txt" target="_blank" rel="noopener">
          {t('licences')}
        </a>
      </p>
    </Dialog>
  );
}
