// Invitations: made, revoked.
import { useState } from 'preact/hooks';
import { Dialog, Secret, ask } from '../dialog';
import { day, micros, number } from '../money';
import { nameOf } from '../names';
import { t } from '../texts';
import { ChangeForm, Input, LimitFields, type Limits, Problem, Table, type WrittenLimits, amountOf, asOperator, countOf, endOf, limitsText, patch, said, stateText, useAnswer } from './work';

interface Invitation {
  id: string;
  name: string;
  hint: string;
  expires_at: number;
  uses: number;
  used: number;
  granted: number;
  state: string;
  limits: Limits;
}

/** Whether an address leads each machine to itself. */
const isLoopback = (host: string) => /^(localhost|.*\.localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1?\])$/i.test(host);

function NewInvitation({ currency, onMade, onClose }: { currency: string; onMade: (code: string) => void; onClose: () => void }) {
  const [name, setName] = useState('');
  const [uses, setUses] = useState('1');
  const [grant, setGrant] = useState('');
  const [expires, setExpires] = useState('');
  const [form, setForm] = useState<WrittenLimits>({});
  const send = async () => {
    const granted = amountOf(grant);
    const body = {
      name: nameOf(name),
      uses: countOf(uses) ?? 1,
      ...(granted && { grant: granted }),
      ...(expires && { expires_at: endOf(expires) }),
      limits: patch(form),
    };
    onMade(String((await asOperator('/admin/invitations', { body })).secret));
  };
  return (
    <Dialog title={t('createInvitation')} onClose={onClose} wide>
      <ChangeForm send={send} action={t('createInvitation')} onClose={onClose}>
        <div class="grid">
          <Input label={t('name')} value={name} onInput={setName} />
          <Input label={t('uses')} value={uses} onInput={setUses} inputMode="numeric" />
          <Input label={`${t('grant')}, ${currency}`} value={grant} onInput={setGrant} inputMode="decimal" />
          <Input label={t('expires')} hint={t('expiresHint')} type="date" value={expires} onInput={setExpires} />
        </div>
        <LimitFields form={form} onChange={setForm} currency={currency} />
      </ChangeForm>
    </Dialog>
  );
}

export function Invitations() {
  const { answer, problem, ask: again } = useAnswer<{ currency: string; invitations: Invitation[] }>('/admin/invitations');
  const [open, setOpen] = useState<'new' | { code: string } | undefined>(undefined);
  const [wrong, setWrong] = useState('');
  const close = () => setOpen(undefined);
  const revoke = async (invitation: Invitation) => {
    if (!(await ask(t('revokeInvitationSure', { name: invitation.name }), t('revoke')))) return;
    try {
      await asOperator(`/admin/invitations/${encodeURIComponent(invitation.id)}/revoke`, { method: 'POST' });
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
        <h2>{t('invitations')}</h2>
        <button type="button" class="primary" onClick={() => setOpen('new')}>
          {t('createInvitation')}
        </button>
      </div>
      <Problem text={problem || wrong} />
      {answer && (
        <Table label={t('invitations')} empty={answer.invitations.length === 0} head={[t('name'), t('state'), { number: t('used') }, { number: t('uses') }, { number: t('grant') }, t('expires'), t('limits'), t('actions')]}>
          {answer.invitations.map((invitation) => (
            <tr key={invitation.id}>
              <th scope="row">
                {invitation.name} <span class="hint mono">…{invitation.hint}</span>
              </th>
              <td>
                <span class={`state ${invitation.state.replace(' ', '-')}`}>{stateText(invitation.state)}</span>
              </td>
              <td class="number">{number(invitation.used)}</td>
              <td class="number">{number(invitation.uses)}</td>
              <td class="number">{micros(invitation.granted, currency)}</td>
              <td>{invitation.expires_at ? day(invitation.expires_at) : t('never')}</td>
              <td class="words">{limitsText(invitation.limits, currency)}</td>
              <td class="row-actions">
                {invitation.state === 'valid' && (
                  <button type="button" class="small" aria-label={`${t('revoke')}: ${invitation.name}`} onClick={() => void revoke(invitation)}>
                    {t('revoke')}
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
      {open === 'new' && (
        <NewInvitation
          currency={currency}
          onClose={close}
          onMade={(code) => {
            setOpen({ code });
            void again();
          }}
        />
      )}
      {typeof open === 'object' && (
        <Dialog title={t('secretCode')} onClose={close}>
          <Secret secret={open.code} label={t('invitation')} hint={t('secretHint')} />
          <Secret secret={`${location.origin}/#/invite/${open.code}`} label={t('inviteLink')} />
          {isLoopback(location.hostname) && <p class="banner">{t('inviteLoopback', { host: location.hostname })}</p>}
        </Dialog>
      )}
    </section>
  );
}
