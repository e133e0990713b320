//! API keys, and the account that each stands for.
//!
//! Keys are kept as hashes and compared in constant time: how long a refusal takes tells nothing of any key.

use std::fmt;

use axum::http::{HeaderMap, header};
use engine::store::Owner;
use ledger::Ledger;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Keys at most.
const KEYS_MAX: usize = 10_000;
/// Bytes of a key at most.
pub const KEY_BYTES_MAX: usize = 512;

/// Whether a header can carry it as a key.
pub fn is_key(text: &str) -> bool {
    (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The one a request counts for. The same key gives the same account after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account {
    /// Names it, for fairness and in logs.
    pub id: u64,
    /// Goes into the hashes of cached prompts: accounts with different salts share no cache, so none learns by timing what another asked.
    pub salt: [u8; 32],
    /// Whose its blocks of the cache on disk are, so that they go with it; those of accounts that cannot be deleted are nobody's.
    pub owner: Owner,
    /// The ledger that has it.
    pub(crate) ledger: Option<LedgerTag>,
}

/// Never the salt.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Account {
    /// The account of everybody, where no keys are set.
    pub const EVERYBODY: Account = Account { id: 0, salt: [0; 32], owner: Owner::NOBODY, ledger: None };
}

/// Tells the owners of one ledger from those of others, whose blocks may lie in the same directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LedgerTag([u8; 8]);

impl fmt::Display for LedgerTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-", u64::from_be_bytes(self.0))
    }
}

impl LedgerTag {
    pub(crate) fn of(ledger: &Ledger) -> LedgerTag {
        let digest = digest("farthing ledger", ledger.identity().as_bytes());
        LedgerTag(*digest.first_chunk().expect("a digest has 32 bytes"))
    }

    /// Whether an owner is an account of this ledger, one that exists or one that did.
    pub(crate) fn is_of(self, owner: &Owner) -> bool {
        owner.0.starts_with(&self.0)
    }
}

/// A key that cannot be one. The key itself is not told.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Not printable, empty or too long.
    #[error(
        "key {place} of {of} has {length} bytes; a key has 1 to {KEY_BYTES_MAX} visible ASCII characters and no spaces"
    )]
    Unfit { place: usize, of: usize, length: usize },
    /// Too many.
    #[error("{0} keys were given; at most {KEYS_MAX} are taken")]
    Many(usize),
}

/// The keys that are accepted. None: everybody may ask.
#[derive(Default)]
pub struct ApiKeys {
    accepted: Vec<([u8; 32], Account)>,
}

fn digest(purpose: &str, key: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(purpose).chain_update([0]).chain_update(key).finalize().into()
}

impl Account {
    /// An account of a ledger, by its id and its salt.
    pub(crate) fn of_ledger(id: &str, salt: [u8; 32], ledger: LedgerTag) -> Account {
        let number = |digest: [u8; 32]| u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"));
        let mut owner = [0; 16];
        owner[..8].copy_from_slice(&ledger.0);
        owner[8..].copy_from_slice(&number(digest("farthing owner", id.as_bytes())).to_be_bytes());
        Account {
            id: number(digest("farthing account", id.as_bytes())),
            salt,
            owner: Owner(owner),
            ledger: Some(ledger),
        }
    }

    /// The same account with a cache that all accounts share, whose blocks are nobody's.
    pub(crate) fn sharing(self) -> Account {
        Account { salt: [0; 32], owner: Owner::NOBODY, ..self }
    }
}

impl ApiKeys {
    /// Accept these keys. With `shared_cache` all accounts have one salt.
    ///
    /// # Errors
    /// A key that no header could carry, or too many keys.
    pub fn new(keys: &[String], shared_cache: bool) -> Result<ApiKeys, KeyError> {
        if keys.len() > KEYS_MAX {
            return Err(KeyError::Many(keys.len()));
        }
        let mut accepted: Vec<([u8; 32], Account)> = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            if !is_key(key) {
                return Err(KeyError::Unfit { place: index + 1, of: keys.len(), length: key.len() });
            }
            let account = digest("farthing account", key.as_bytes());
            let (id, _) = account.split_first_chunk().expect("a digest has 32 bytes");
            let salt = if shared_cache { [0; 32] } else { digest("farthing cache", key.as_bytes()) };
            let hash = digest("farthing key", key.as_bytes());
            if accepted.iter().all(|(known, _)| *known != hash) {
                accepted
                    .push((hash, Account { id: u64::from_be_bytes(*id), salt, owner: Owner::NOBODY, ledger: None }));
            }
        }
        Ok(ApiKeys { accepted })
    }

    /// Whether everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// The account of a request, by `Authorization: Bearer`, `x-api-key` or `api-key`; none of them need to be right but one.
    pub fn account(&self, headers: &HeaderMap) -> Option<Account> {
        if self.is_empty() {
            return Some(Account::EVERYBODY);
        }
        credentials(headers).find_map(|key| self.find(key))
    }

    /// The account of this id, if its key is still accepted.
    pub(crate) fn account_of(&self, id: u64) -> Option<Account> {
        if self.is_empty() {
            return Some(Account::EVERYBODY).filter(|everybody| everybody.id == id);
        }
        self.accepted.iter().map(|(_, account)| *account).find(|account| account.id == id)
    }

    fn find(&self, key: &[u8]) -> Option<Account> {
        let hash = digest("farthing key", key);
        let mut found = None;
        // No early exit: constant time.
        for (accepted, account) in &self.accepted {
            if bool::from(accepted.ct_eq(&hash)) {
                found = Some(*account);
            }
        }
        found
    }
}

/// The keys that a request gives, by `Authorization: Bearer`, `x-api-key` or `api-key`.
pub(crate) fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get_all(header::AUTHORIZATION).into_iter().filter_map(|v| bearer(v.as_bytes()));
    let plain = ["x-api-key", "api-key"].into_iter().flat_map(|name| headers.get_all(name)).map(|v| v.as_bytes());
    bearer.chain(plain).take(4)
}

/// The key in `Bearer KEY`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[&str], shared: bool) -> Result<ApiKeys, KeyError> {
        ApiKeys::new(&list.iter().map(|k| k.to_string()).collect::<Vec<_>>(), shared)
    }

    fn asked(keys: &ApiKeys, name: &'static str, value: &str) -> Option<Account> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        keys.account(&headers)
    }

    #[test]
    fn each_key_is_an_account_by_any_of_the_three_headers() {
        let two = keys(&["sk-one", "sk-two"], false).unwrap();
        let one = asked(&two, "authorization", "Bearer sk-one").unwrap();
        let other = asked(&two, "authorization", "Bearer sk-two").unwrap();
        assert!(one.id != other.id && one.salt != other.salt && one.salt != Account::EVERYBODY.salt);
        for (name, value) in [("x-api-key", "sk-one"), ("api-key", "sk-one"), ("authorization", "bEARER  sk-one ")] {
            assert_eq!(asked(&two, name, value), Some(one), "{name}: {value}");
        }
        let wrong =
            ["", "sk-one", "Basic sk-one", "Bearer", "Bearer ", "Bearer sk-on", "Bearer sk-onee", "Bearer sk-three"];
        for value in wrong {
            assert_eq!(asked(&two, "authorization", value), None, "{value:?}");
        }
        assert_eq!(two.account(&HeaderMap::new()), None);
        assert_eq!((two.account_of(one.id), two.account_of(0)), (Some(one), None));
        assert_eq!(ApiKeys::default().account_of(0), Some(Account::EVERYBODY));
        assert_eq!(ApiKeys::default().account_of(one.id), None);
        // The same after a restart.
        assert_eq!(asked(&keys(&["sk-two", "sk-one"], false).unwrap(), "x-api-key", "sk-one"), Some(one));
    }

    /// Debugging output may end in a log.
    #[test]
    fn nothing_prints_a_salt() {
        let ledger = LedgerTag([7; 8]);
        let account = Account::of_ledger("acc_anna", [0xab; 32], ledger);
        let keyed = asked(&keys(&["sk-one"], false).unwrap(), "api-key", "sk-one").unwrap();
        for account in [account, keyed] {
            let printed = format!("{account:?} {account:#?}");
            let byte = account.salt[0].to_string();
            assert!(!printed.contains("salt") && !printed.contains(&format!("{byte}, ")), "{printed}");
        }
        // An owner is its account's and its ledger's; a cache that is shared has none.
        assert!(ledger.is_of(&account.owner) && !LedgerTag([8; 8]).is_of(&account.owner));
        assert_ne!(account.owner, Account::of_ledger("acc_bob", [0xab; 32], ledger).owner);
        assert_eq!((account.sharing().owner, account.sharing().salt), (Owner::NOBODY, [0; 32]));
        assert_eq!(keyed.owner, Owner::NOBODY);
    }

    #[test]
    fn a_shared_cache_has_one_salt_and_no_keys_one_account() {
        let shared = keys(&["a", "b", "b"], true).unwrap();
        assert_eq!(shared.len(), 2);
        let (a, b) = (asked(&shared, "api-key", "a").unwrap(), asked(&shared, "api-key", "b").unwrap());
        assert!(a.id != b.id && a.salt == b.salt);
        assert_eq!(asked(&ApiKeys::default(), "api-key", "anything"), Some(Account::EVERYBODY));
    }

    #[test]
    fn keys_that_no_header_carries_are_refused_untold() {
        for bad in ["", "two words", "käse", "tab\t", &"x".repeat(513)] {
            let said = keys(&["fine", bad], false).err().unwrap().to_string();
            assert!(said.starts_with("key 2 of 2"), "{said}");
            assert!(bad.is_empty() || !said.contains(bad), "{said}");
        }
    }

    #[test]
    fn as_many_keys_and_as_long_ones_as_the_limits_say() {
        let many = |count: usize| ApiKeys::new(&(0..count).map(|n| format!("key-{n}")).collect::<Vec<_>>(), false);
        assert_eq!(many(KEYS_MAX).unwrap().len(), KEYS_MAX);
        assert!(matches!(many(KEYS_MAX + 1), Err(KeyError::Many(count)) if count == KEYS_MAX + 1));
        assert!(keys(&[&"x".repeat(KEY_BYTES_MAX)], false).is_ok());
    }
}
