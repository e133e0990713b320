// A key of this server, or an invitation that becomes one.
import { useState } from 'preact/hooks';
import { ApiError, json } from './api';
import { Cell } from './cell';
import { Check, Field, Secret } from './dialog';
import { Coin } from './icons';
import { isKey, setUserKey } from './keys';
import { invited } from './route';
import { NameError, nameOf } from './names';
import { connect, session } from './session';
import { t } from './texts';

function KeyField({ label, value, problem, onInput }: { label: string; value: string; problem?: string; onInput: (value: string) => void }) {
  const [shown, setShown] = useState(false);
  return (
    <Field label={label} problem={problem}>
      {(field) => (
        <div class="with-button">
          <input
            {...field}
            class="mono"
            type={(shown ? 'text' : 'password') as 'password'}
            autocomplete="off"
            spellcheck={false}
            autocapitalize="off"
            value={value}
            onInput={(event) => onInput(event.currentTarget.value)}
          />
          <button type="button" onClick={() => setShown(!shown)}>
            {t(shown ? 'hide' : 'show')}
          </button>
        </div>
      )}
    </Field>
  );
}

function GiveKey() {
  const { problem } = session.use();
  const [key, setKey] = useState('');
  const [kept, setKept] = useState(false);
  const [unfit, setUnfit] = useState(false);
  const use = () => {
    const given = key.trim();
    setUnfit(!isKey(given));
    if (!isKey(given)) return;
    setUserKey(given, kept);
    void connect();
  };
  const wrong = unfit ? t('keyUnfit') : problem === 'wrong' ? t('keyWrong') : undefined;
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        use();
      }}
    >
      {problem === 'operators' && (
        <p class="banner" role="alert">
          {t('keyIsOperators')}
        </p>
      )}
      <KeyField label={t('key')} value={key} problem={wrong} onInput={setKey} />
      <Check label={t('keepKey')} hint={t('keepKeyHint')} checked={kept} onChange={setKept} />
      <div class="buttons">
        <button type="submit" class="primary" disabled={!key.trim()}>
          {t('useKey')}
        </button>
      </div>
    </form>
  );
}

/** What an invitation became: it is shown until its owner goes on. */
const made = new Cell<{ secret: string; account: string; wanted: string } | undefined>(undefined);

function wrongWith(error: unknown): string {
  if (error instanceof NameError) return error.message;
  if (!(error instanceof ApiError)) return String(error);
  // The code was found, so it is the name.
  if (error.status === 400 && error.code === 'invalid_value') return t('nameUnfit');
  if (error.code === 'invitation_refused' || error.status === 403) return t('invitationWrong');
  if (error.code === 'no_ledger' || error.status === 404) return t('noLedger');
  if (error.status === 409) return t('nameTaken');
  if (error.status === 0) return t('errorNetwork');
  if (error.status === 429) return `${t('errorBusy')} ${t('errorBusyWait', { seconds: error.retryAfter ?? 1 })}`;
  return t('errorSaid', { message: error.message });
}

function Redeem() {
  const [code, setCode] = useState(invited.value);
  const [name, setName] = useState('');
  const [problem, setProblem] = useState<string | undefined>(undefined);
  const [busy, setBusy] = useState(false);
  const redeem = async () => {
    setBusy(true);
    setProblem(undefined);
    try {
      const wanted = nameOf(name);
      const { secret, account } = await json('/invitations/redeem', { body: { code: code.trim(), name: wanted } });
      invited.value = '';
      // Until the tab is closed a reload loses nothing.
      setUserKey(String(secret), false);
      made.value = { secret: String(secret), account: String(account?.name ?? wanted), wanted };
    } catch (error) {
      setProblem(wrongWith(error));
    }
    setBusy(false);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void redeem();
      }}
    >
      <Field label={t('invitation')} problem={problem}>
        {(field) => <input {...field} class="mono" autocomplete="off" spellcheck={false} value={code} onInput={(event) => setCode(event.currentTarget.value)} />}
      </Field>
      <Field label={t('accountName')}>
        {(field) => <input {...field} maxLength={100} autocomplete="username" value={name} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <div class="buttons">
        <button type="submit" class="primary" disabled={busy || !code.trim() || !name.trim()}>
          {t('redeem')}
        </button>
      </div>
    </form>
  );
}

/** The key that an invitation became, and the name of its account. */
function NewKey({ secret, account, wanted }: { secret: string; account: string; wanted: string }) {
  const [kept, setKept] = useState(false);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        setUserKey(secret, kept);
        made.value = undefined;
        void connect();
      }}
    >
      <p role="status">{account === wanted ? t('named', { name: account }) : t('renamed', { wanted, name: account })}</p>
      <Secret secret={secret} label={t('redeemed')} hint={t('redeemedHint')} />
      <Check label={t('keepKey')} hint={t('keepKeyHint')} checked={kept} onChange={setKept} />
      <div class="buttons">
        <button type="submit" class="primary">
          {t('goChat')}
        </button>
      </div>
    </form>
  );
}

export function SignIn() {
  const key = made.use();
  const [way, setWay] = useState<'key' | 'invitation'>(invited.value ? 'invitation' : 'key');
  if (key) {
    return (
      <div class="messages">
        <div class="column sign-in">
          <Coin size={48} />
          <h2>{t('redeemedTitle')}</h2>
          <NewKey {...key} />
        </div>
      </div>
    );
  }
  return (
    <div class="messages">
      <div class="column sign-in">
        <Coin size={48} />
        <h2>{t('signIn')}</h2>
        <p>{t('signInHint')}</p>
        <div class="tabs" role="group" aria-label={t('signIn')}>
          <button type="button" aria-pressed={way === 'key'} onClick={() => setWay('key')}>
            {t('haveKey')}
          </button>
          <button type="button" aria-pressed={way === 'invitation'} onClick={() => setWay('invitation')}>
            {t('haveInvitation')}
          </button>
        </div>
        {way === 'key' ? <GiveKey /> : <Redeem />}
      </div>
    </div>
  );
}

export { KeyField };
