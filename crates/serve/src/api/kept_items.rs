//! Recent output items of `/v1/responses`: a client may send an `item_reference` to one instead of the item.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

use crate::api::fields::{Field, Fields};
use crate::error::ApiError;

/// How long an item is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// Bytes of one account's items, and of all accounts' together.
const ACCOUNT_BYTES_MAX: usize = 4 << 20;
const BYTES_MAX: usize = 32 << 20;
/// What an item takes beside its text.
const ITEM_BYTES: usize = 512;

struct KeptItem {
    since: Instant,
    id: String,
    item: Value,
    bytes: usize,
}

/// Items of an account, the oldest first.
#[derive(Default)]
struct AccountItems {
    items: VecDeque<KeptItem>,
    bytes: usize,
}

impl AccountItems {
    fn drop_oldest(&mut self) -> usize {
        let bytes = self.items.pop_front().map_or(0, |kept| kept.bytes);
        self.bytes -= bytes;
        bytes
    }
}

#[derive(Default)]
struct Accounts {
    by_id: HashMap<u64, AccountItems>,
    bytes: usize,
}

/// Items of all accounts, in memory only.
#[derive(Default)]
pub struct KeptItems(Mutex<Accounts>);

impl KeptItems {
    /// Keeps the items of a response that have an id.
    pub fn keep(&self, account: u64, items: &[Value], now: Instant) {
        let mut accounts = self.0.lock();
        let Accounts { by_id, bytes } = &mut *accounts;
        for kept in by_id.values_mut() {
            while kept.items.front().is_some_and(|kept| now.duration_since(kept.since) > KEPT) {
                *bytes -= kept.drop_oldest();
            }
        }
        for item in items {
            let Some(id) = item["id"].as_str() else { continue };
            let size = item.to_string().len() + ITEM_BYTES;
            if size > ACCOUNT_BYTES_MAX {
                continue;
            }
            let own = by_id.entry(account).or_default();
            own.items.push_back(KeptItem { since: now, id: id.to_string(), item: item.clone(), bytes: size });
            own.bytes += size;
            *bytes += size;
            while own.bytes > ACCOUNT_BYTES_MAX {
                *bytes -= own.drop_oldest();
            }
            while *bytes > BYTES_MAX {
                // Whoever has the most makes room.
                let Some(largest) = by_id.values_mut().max_by_key(|kept| kept.bytes) else { break };
                *bytes -= largest.drop_oldest();
            }
        }
        by_id.retain(|_, kept| !kept.items.is_empty());
    }

    /// Forgets the items of all accounts but some.
    pub fn retain(&self, keep: impl Fn(u64) -> bool) {
        let mut accounts = self.0.lock();
        let Accounts { by_id, bytes } = &mut *accounts;
        by_id.retain(|account, kept| {
            let stays = keep(*account);
            if !stays {
                *bytes -= kept.bytes;
            }
            stays
        });
    }

    /// Puts kept items in the places of the references in `input`, each at most once.
    ///
    /// # Errors
    /// A reference to an item that is not kept, or a second one to the same item.
    pub fn resolve(&self, account: u64, fields: &mut Fields) -> Result<(), ApiError> {
        let Some(Value::Array(input)) = fields.get_mut("input") else { return Ok(()) };
        let referred: Vec<usize> = (0..input.len()).filter(|&i| is_reference(&input[i])).collect();
        if referred.is_empty() {
            return Ok(());
        }
        let accounts = self.0.lock();
        let own = accounts.by_id.get(&account).into_iter().flat_map(|kept| &kept.items);
        let known: HashMap<&str, &Value> = own.map(|kept| (kept.id.as_str(), &kept.item)).collect();
        let mut taken = HashSet::new();
        for i in referred {
            let given = &input[i]["id"];
            let item = given.as_str().and_then(|id| known.get(id));
            let Some(item) = item.filter(|item| taken.insert(item["id"].as_str())) else {
                let instead = "items are kept for an hour, in memory, and a request takes each once: send the item itself; \
                    clients send whole items with store: false";
                return Err(Field::new(format!("input[{i}].id"), given).unsupported(instead));
            };
            input[i] = (*item).clone();
        }
        Ok(())
    }
}

/// Whether an item of `input` is only the id of another; the type may be left out.
fn is_reference(item: &Value) -> bool {
    match &item["type"] {
        Value::String(kind) => kind == "item_reference",
        Value::Null => item["id"].is_string() && item["role"].is_null(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(id: &str, text: &str) -> Value {
        json!({"id": id, "type": "message", "role": "assistant", "content": text})
    }

    fn resolved(kept: &KeptItems, account: u64, ids: &[&str]) -> Result<Vec<Value>, String> {
        let input: Vec<Value> = ids.iter().map(|id| json!({"type": "item_reference", "id": id})).collect();
        let mut fields = Fields::parse(json!({ "input": input }).to_string().as_bytes()).unwrap();
        kept.resolve(account, &mut fields).map_err(|error| error.message)?;
        Ok(fields.take("input").unwrap().as_array().unwrap().clone())
    }

    #[test]
    fn an_account_refers_to_its_own_recent_items_each_once() {
        let (kept, now) = (KeptItems::default(), Instant::now());
        kept.keep(1, &[item("a", "one"), item("b", "two"), json!({"type": "no id"})], now);
        assert_eq!(resolved(&kept, 1, &["b", "a"]).unwrap(), [item("b", "two"), item("a", "one")]);
        assert!(resolved(&kept, 2, &["a"]).unwrap_err().starts_with("input[0].id is \"a\", which is not supported"));
        assert!(resolved(&kept, 1, &["a", "a"]).unwrap_err().starts_with("input[1].id is \"a\""));
        let mut fields =
            Fields::parse(br#"{"input": [{"id": "a"}, {"role": "user", "id": "a", "content": "hi"}]}"#).unwrap();
        kept.resolve(1, &mut fields).unwrap();
        let input = fields.take("input").unwrap();
        assert_eq!((&input[0], &input[1]["role"]), (&item("a", "one"), &json!("user")), "the type may be left out");
        kept.keep(3, &[item("d", "deleted")], now);
        kept.retain(|account| account != 3);
        assert!(resolved(&kept, 3, &["d"]).is_err() && resolved(&kept, 1, &["a"]).is_ok());
        kept.keep(2, &[item("c", "")], now + KEPT + Duration::from_secs(1));
        assert!(resolved(&kept, 1, &["a"]).is_err(), "an hour is over");
        let accounts = kept.0.lock();
        assert_eq!((accounts.by_id.len(), accounts.bytes), (1, item("c", "").to_string().len() + ITEM_BYTES));
    }

    #[test]
    fn memory_is_bounded_for_an_account_and_for_all() {
        let (kept, now) = (KeptItems::default(), Instant::now());
        let text = "x".repeat(1 << 20);
        for i in 0..5 {
            kept.keep(0, &[item(&format!("i{i}"), &text)], now);
        }
        assert!(resolved(&kept, 0, &["i1"]).is_err() && resolved(&kept, 0, &["i2", "i3", "i4"]).is_ok());
        kept.keep(0, &[item("huge", &"x".repeat(ACCOUNT_BYTES_MAX))], now);
        assert!(resolved(&kept, 0, &["huge"]).is_err() && resolved(&kept, 0, &["i4"]).is_ok());
        kept.keep(1, &[item("small", "")], now);
        for account in 2..20 {
            kept.keep(account, &[item("a", &text), item("b", &text), item("c", &text)], now);
        }
        let accounts = kept.0.lock();
        assert!(accounts.bytes <= BYTES_MAX && accounts.bytes > BYTES_MAX - (2 << 20), "{}", accounts.bytes);
        assert_eq!(accounts.bytes, accounts.by_id.values().map(|kept| kept.bytes).sum::<usize>());
        drop(accounts);
        assert!(resolved(&kept, 1, &["small"]).is_ok(), "others' items make no room of what is small");
        assert!(resolved(&kept, 19, &["c"]).is_ok());
    }
}
