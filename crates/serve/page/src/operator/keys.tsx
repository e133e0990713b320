// Keys: made, limited, given new secrets, revoked.
import { useState } from 'preact/hooks';
import { Check, Dialog, Secret, ask } from '../dialog';
import { day, micros, number } from '../money';
import { nameOf } from '../names';
import { t } from '../texts';
import { ChangeForm, Input, LimitFields, type Limits, Problem, Table, type WrittenLimits, amountOf, asOperator, endOf, limitsText, patch, said, stateText, useAnswer, written } from './work';

export interface Key {
  id: string;
  name: string;
  account: string;
  account_name: string;
  hint: string;
  admin: boolean;
  state: string;
  expires_at: number;
  limits: Limits;
  total_tokens: number;
  total_cost: number;
}

/** Whether no valid key of an administrator would be left without some keys. */
export function isLastAdmin(all: Key[], gone: Key[]): boolean {
  const admins = all.filter((key) => key.state === 'admin');
  return admins.length > 0 && admins.every((key) => gone.some(({ id }) => id === key.id));
}

function NewKey({ currency, onMade, onClose }: { currency: string; onMade: (secret: string) => void; onClose: () => void }) {
  const [name, setName] = useState('');
  const [account, setAccount] = useState('');
  const [admin, setAdmin] = useState(false);
  const [expires, setExpires] = useState('');
  const [topUp, setTopUp] = useState('');
  const [form, setForm] = useState<WrittenLimits>({});
  const send = async () => {
    const made = await asOperator('/admin/keys', {
      body: {
        name: nameOf(name),
        ...(account.trim() && { account: /^acc_/.test(account.trim()) ? account.trim() : nameOf(account) }),
        ...(admin ? { admin } : { limits: patch(form) }),
        ...(expires && { expires_at: endOf(expires) }),
        ...(topUp.trim() && { top_up: amountOf(topUp) }),
      },
    });
    onMade(String(made.secret));
  };
  return (
    <Dialog title={t('createKey')} onClose={onClose} wide>
      <ChangeForm send={send} action={t('createKey')} onClose={onClose}>
        <div class="grid">
          <Input label={t('name')} value={name} onInput={setName} />
          <Input label={t('accountFor')} hint={t('accountForHint')} value={account} onInput={setAccount} />
          <Input label={t('expires')} hint={t('expiresHint')} type="date" value={expires} onInput={setExpires} />
          {!admin && <Input label={`${t('kindTopUp')}, ${currency}`} value={topUp} onInput={setTopUp} inputMode="decimal" />}
        </div>
        <Check label={t('admin')} checked={admin} onChange={setAdmin} />
        {!admin && <LimitFields form={form} onChange={setForm} currency={currency} />}
      </ChangeForm>
    </Dialog>
  );
}

function EditLimits({ key_, currency, onDone, onClose }: { key_: Key; currency: string; onDone: () => void; onClose: () => void }) {
  const [form, setForm] = useState(() => written(key_.limits));
  const send = async () => {
    await asOperator(`/admin/keys/${encodeURIComponent(key_.id)}/limits`, { body: { limits: patch(form) } });
    onDone();
  };
  return (
    <Dialog title={`${t('editLimits')}: ${key_.name}`} onClose={onClose} wide>
      <ChangeForm send={send} action={t('save')} onClose={onClose}>
        <LimitFields form={form} onChange={setForm} currency={currency} />
      </ChangeForm>
    </Dialog>
  );
}

function Rotate({ key_, onMade, onClose }: { key_: Key; onMade: (secret: string) => void; onClose: () => void }) {
  const [hours, setHours] = useState('24');
  const send = async () => {
    const grace = Math.round(Number(hours.replace(',', '.')) * 3_600_000) || 0;
    const made = await asOperator(`/admin/keys/${encodeURIComponent(key_.id)}/rotate`, { body: { grace_ms: Math.max(0, grace) } });
    onMade(String(made.secret));
  };
  return (
    <Dialog title={t('rotate')} onClose={onClose}>
      <ChangeForm send={send} action={t('rotate')} onClose={onClose}>
        <p>{t('rotateSure', { name: key_.name })}</p>
        <Input label={t('grace')} value={hours} onInput={setHours} inputMode="decimal" />
      </ChangeForm>
    </Dialog>
  );
}

function Row({ key_: key, currency, onLimits, onRotate, onRevoke }: { key_: Key; currency: string; onLimits: () => void; onRotate: () => void; onRevoke: () => void }) {
  const live = key.state === 'valid' || key.state === 'admin';
  const actions: [string, () => void][] = live ? [...(key.admin ? [] : [[t('editLimits'), onLimits] as [string, () => void]]), [t('rotate'), onRotate], [t('revoke'), onRevoke]] : [];
  return (
    <tr>
      <th scope="row">
        {key.name} <span class="hint mono">…{key.hint}</span>
      </th>
      <td>{key.account_name}</td>
      <td>
        <span class={`state ${key.state}`}>{stateText(key.state)}</span>
      </td>
      <td>{key.expires_at ? day(key.expires_at) : t('never')}</td>
      <td class="words">{key.admin ? '–' : limitsText(key.limits, currency)}</td>
      <td class="number">{number(key.total_tokens)}</td>
      <td class="number">{micros(key.total_cost, currency)}</td>
      <td class="row-actions">
        {actions.map(([label, act]) => (
          <button key={label} type="button" class="small" aria-label={`${label}: ${key.name}`} onClick={act}>
            {label}
          </button>
        ))}
      </td>
    </tr>
  );
}

type Open = { what: 'new' } | { what: 'limits' | 'rotate'; key: Key } | { what: 'secret'; secret: string };

export function Keys() {
  const { answer, problem, ask: again } = useAnswer<{ currency: string; keys: Key[] }>('/admin/keys');
  const [open, setOpen] = useState<Open | undefined>(undefined);
  const [wrong, setWrong] = useState('');
  const close = () => setOpen(undefined);
  const made = (secret: string) => {
    setOpen({ what: 'secret', secret });
    void again();
  };
  const revoke = async (key: Key) => {
    const last = answer !== undefined && isLastAdmin(answer.keys, [key]);
    if (!(await ask(t(last ? 'revokeLastAdminSure' : 'revokeKeySure', { name: key.name }), t('revoke')))) return;
    try {
      await asOperator(`/admin/keys/${encodeURIComponent(key.id)}/revoke`, { method: 'POST' });
      setWrong('');
    } catch (error) {
      setWrong(said(error));
    }
    void again();
  };
  const currency = answer?.currency ?? '';
  return (
    <section>
      <div class="section-head">
        <h2>{t('keysTab')}</h2>
        <button type="button" class="primary" onClick={() => setOpen({ what: 'new' })}>
          {t('createKey')}
        </button>
      </div>
      <Problem text={problem || wrong} />
      {answer && (
        <Table
          label={t('keysTab')}
          empty={answer.keys.length === 0}
          head={[t('name'), t('accountColumn'), t('state'), t('expires'), t('limits'), { number: t('tokensUsed') }, { number: t('spent') }, t('actions')]}
        >
          {answer.keys.map((key) => (
            <Row
              key={key.id}
              key_={key}
              currency={currency}
              onLimits={() => setOpen({ what: 'limits', key })}
              onRotate={() => setOpen({ what: 'rotate', key })}
              onRevoke={() => void revoke(key)}
            />
          ))}
        </Table>
      )}
      {open?.what === 'new' && <NewKey currency={currency} onMade={made} onClose={close} />}
      {open?.what === 'limits' && (
        <EditLimits
          key_={open.key}
          currency={currency}
          onClose={close}
          onDone={() => {
            close();
            void again();
          }}
        />
      )}
      {open?.what === 'rotate' && <Rotate key_={open.key} onMade={made} onClose={close} />}
      {open?.what === 'secret' && (
        <Dialog title={t('secretKey')} onClose={close}>
          <Secret secret={open.secret} label={t('key')} hint={t('secretHint')} />
        </Dialog>
      )}
    </section>
  );
}
