// The operator's view, and its key.
import { useEffect, useState } from 'preact/hooks';
import { ApiError, json, send } from '../api';
import { Cell } from '../cell';
import { Check, Prose } from '../dialog';
import { isKey, operatorKey, setOperatorKey } from '../keys';
import { TABS, type Tab, go } from '../route';
import { session } from '../session';
import { KeyField } from '../signin';
import { t } from '../texts';
import { Accounts } from './accounts';
import { Invitations } from './invitations';
import { Keys } from './keys';
import { Load } from './load';
import { Models } from './models';
import { Prices } from './prices';
import { UsageReport } from './report';

/** What the operator's key opens: all, or load and models only where there is no ledger; undefined is not known yet. */
const access = new Cell<'all' | 'noLedger' | 'none' | undefined>(undefined);

async function find() {
  const key = operatorKey.value;
  try {
    await json('/admin/prices', { key });
    access.value = 'all';
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) {
      access.value = 'none';
      return;
    }
    // Without a ledger the metrics are the operator's: where there are several keys they need an administrator's.
    access.value = await send('/metrics', { key, accept: 'text/plain' }).then(
      () => 'noLedger' as const,
      () => 'none' as const,
    );
  }
}

function OperatorSignIn({ tried }: { tried: boolean }) {
  const [key, setKey] = useState('');
  const [kept, setKept] = useState(false);
  const [unfit, setUnfit] = useState(false);
  return (
    <div class="messages">
      <form
        class="column sign-in"
        onSubmit={(event) => {
          event.preventDefault();
          setUnfit(!isKey(key.trim()));
          if (!isKey(key.trim())) return;
          access.value = undefined;
          setOperatorKey(key.trim(), kept);
        }}
      >
        <h2>{t('operatorSignIn')}</h2>
        <p>
          <Prose text={t('operatorSignInHint')} />
        </p>
        <KeyField label={t('operatorKey')} value={key} problem={unfit ? t('keyUnfit') : tried ? t('operatorWrong') : undefined} onInput={setKey} />
        <Check label={t('operatorKeep')} hint={t('operatorKeepHint')} checked={kept} onChange={setKept} />
        <div class="buttons">
          <button type="submit" class="primary" disabled={!key.trim()}>
            {t('useKey')}
          </button>
        </div>
      </form>
    </div>
  );
}

const VIEWS = { load: Load, models: Models, keys: Keys, accounts: Accounts, invitations: Invitations, usage: UsageReport, prices: Prices };

export function Operator({ tab }: { tab: Tab }) {
  const key = operatorKey.use();
  const { state, ledger } = session.use();
  const opens = access.use();
  // Where no key is needed, none is asked for.
  const open = state === 'ready' && !ledger;
  useEffect(() => {
    if (state === 'asking' || state === 'offline') return;
    if (key !== '' || open) void find();
    else access.value = 'none';
  }, [key, state, open]);
  if (opens === undefined) return <p class="page hint">{t('wait')}</p>;
  if (opens === 'none') return <OperatorSignIn tried={key !== ''} />;
  const tabs = TABS.filter((one) => opens === 'all' || one === 'load' || one === 'models');
  const shown = tabs.includes(tab) ? tab : 'load';
  const View = VIEWS[shown];
  const names = { load: 'load', models: 'models', keys: 'key', accounts: 'accounts', invitations: 'invitations', usage: 'usage', prices: 'prices' } as const;
  return (
    <div class="page">
      <nav class="tabs" aria-label={t('operatorView')}>
        {tabs.map((one) => (
          <a key={one} href={`#/operator/${one}`} aria-current={one === shown ? 'page' : undefined}>
            {one === 'keys' ? t('keysTab') : t(names[one])}
          </a>
        ))}
      </nav>
      <View />
      {key !== '' && (
        <div class="buttons start forget">
          <button
            type="button"
            class="small"
            onClick={() => {
              setOperatorKey('', false);
              access.value = undefined;
              go('operator/load');
            }}
          >
            {t('operatorForget')}
          </button>
        </div>
      )}
    </div>
  );
}
