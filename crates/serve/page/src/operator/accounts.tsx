// Accounts: made, credited, deleted.
import { useState } from 'preact/hooks';
import { Check, Dialog, Field, ask } from '../dialog';
import { day, micros } from '../money';
import { nameOf } from '../names';
import { t } from '../texts';
import { type Key, isLastAdmin } from './keys';
import { ChangeForm, Input, Problem, Table, amountOf, asOperator, said, useAnswer } from './work';

interface Account {
  id: string;
  name: string;
  created_at: number;
  prepaid: boolean;
  granted: number;
  topped_up: number;
  reserved: number;
  balance: number;
}

function NewAccount({ onDone, onClose }: { onDone: () => void; onClose: () => void }) {
  const [name, setName] = useState('');
  const [prepaid, setPrepaid] = useState(true);
  const send = async () => {
    await asOperator('/admin/accounts', { body: { name: nameOf(name), prepaid } });
    onDone();
  };
  return (
    <Dialog title={t('createAccount')} onClose={onClose}>
      <ChangeForm send={send} action={t('createAccount')} onClose={onClose}>
        <Input label={t('name')} value={name} onInput={setName} />
        <Check label={t('prepaid')} checked={prepaid} onChange={setPrepaid} />
      </ChangeForm>
    </Dialog>
  );
}

function Credit({ account, currency, onDone, onClose }: { account: Account; currency: string; onDone: () => void; onClose: () => void }) {
  const [amount, setAmount] = useState('');
  const [kind, setKind] = useState('top_up');
  const [note, setNote] = useState('');
  const send = async () => {
    const micros = amountOf(amount);
    if (!micros) throw new Error(t('badAmount'));
    await asOperator(`/admin/accounts/${encodeURIComponent(account.id)}/credit`, { body: { kind, amount: micros, ...(note.trim() && { note: note.trim() }) } });
    onDone();
  };
  return (
    <Dialog title={`${t('credit')}: ${account.name}`} onClose={onClose}>
      <ChangeForm send={send} action={t('credit')} onClose={onClose}>
        <div class="grid">
          <Input label={`${t('amount')}, ${currency}`} value={amount} onInput={setAmount} inputMode="decimal" />
          <Field label={t('kind')}>
            {(field) => (
              <select {...field} value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
                <option value="top_up">{t('kindTopUp')}</option>
                <option value="grant">{t('kindGrant')}</option>
              </select>
            )}
          </Field>
        </div>
        <Input label={t('note')} value={note} onInput={setNote} />
      </ChangeForm>
    </Dialog>
  );
}

/** An account whose keys use no model, and so need no money. */
const isAdmins = (keys: Key[]) => keys.length > 0 && keys.every((key) => key.admin);

function Row({ account, admin, money, onCredit, onRemove }: { account: Account; admin: boolean; money: (amount: number) => string; onCredit: () => void; onRemove: () => void }) {
  return (
    <tr>
      <th scope="row">
        {account.name} {admin && <span class="state admin">{t('stateAdmin')}</span>}
      </th>
      {[account.balance, account.topped_up, account.granted, account.reserved].map((amount, i) => (
        <td key={i} class="number">
          {admin && amount === 0 ? '–' : money(amount)}
        </td>
      ))}
      <td>{admin && !account.prepaid ? '–' : t(account.prepaid ? 'yes' : 'no')}</td>
      <td>{day(account.created_at)}</td>
      <td class="row-actions">
        {!admin && (
          <button type="button" class="small" aria-label={`${t('credit')}: ${account.name}`} onClick={onCredit}>
            {t('credit')}
          </button>
        )}
        <button type="button" class="small" aria-label={`${t('remove')}: ${account.name}`} onClick={onRemove}>
          {t('remove')}
        </button>
      </td>
    </tr>
  );
}

export function Accounts() {
  const { answer, problem, ask: again } = useAnswer<{ currency: string; accounts: Account[] }>('/admin/accounts');
  const { answer: listed, problem: unlisted } = useAnswer<{ keys: Key[] }>('/admin/keys');
  const [open, setOpen] = useState<Account | 'new' | undefined>(undefined);
  const [wrong, setWrong] = useState('');
  const close = () => setOpen(undefined);
  const done = () => {
    close();
    void again();
  };
  const keysOf = (account: Account) => listed?.keys.filter((key) => key.account === account.id) ?? [];
  const remove = async (account: Account) => {
    const last = listed !== undefined && isLastAdmin(listed.keys, keysOf(account));
    if (!(await ask(t(last ? 'removeLastAdminSure' : 'removeAccountSure', { name: account.name }), t('remove')))) return;
    try {
      await asOperator(`/admin/accounts/${encodeURIComponent(account.id)}`, { method: 'DELETE' });
      setWrong('');
    } catch (error) {
      setWrong(said(error));
    }
    void again();
  };
  const money = (amount: number) => micros(amount, answer?.currency ?? '');
  return (
    <section>
      <div class="section-head">
        <h2>{t('accounts')}</h2>
        <button type="button" class="primary" onClick={() => setOpen('new')}>
          {t('createAccount')}
        </button>
      </div>
      <Problem text={problem || wrong || unlisted} />
      {answer && (listed || unlisted) && (
        <Table
          label={t('accounts')}
          empty={answer.accounts.length === 0}
          head={[t('name'), { number: t('balance') }, { number: t('toppedUp') }, { number: t('granted') }, { number: t('reserved') }, t('prepaidColumn'), t('created'), t('actions')]}
        >
          {answer.accounts.map((account) => (
            <Row key={account.id} account={account} admin={isAdmins(keysOf(account))} money={money} onCredit={() => setOpen(account)} onRemove={() => void remove(account)} />
          ))}
        </Table>
      )}
      {open === 'new' && <NewAccount onDone={done} onClose={close} />}
      {open && open !== 'new' && <Credit account={open} currency={answer?.currency ?? ''} onDone={done} onClose={close} />}
    </section>
  );
}
