//! Accounts, keys, invitations.

use farthing_ledger::{
    Budget, Clock, EntryKind, GroupBy, Ledger, LedgerError, Limits, Money, NewInvitation, NewKey, Refusal, Tokens,
    UsageFilter,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, NOON, demand, over_both};

#[test]
fn a_key_is_accepted_until_it_is_rotated_revoked_or_expires() {
    over_both(async |books: Fixture| {
        let limits = Limits {
            models: vec!["pocket".into()],
            tokens: Budget { day: Some(1000), ..Budget::default() },
            ..Limits::default()
        };
        let (key, secret) = books.key("anna", 0, limits.clone()).await;
        assert!(!key.id.contains(secret.reveal()) && format!("{secret:?}") == "Secret(...)");
        let accepted = async |secret: &str| books.ledger.authenticate(secret.as_bytes()).await.unwrap();
        let found = accepted(secret.reveal()).await.unwrap();
        assert_eq!((&found.key, &found.key.limits), (&key, &limits));
        for wrong in ["", "sk-ft-", &secret.reveal()[1..], &secret.reveal().to_uppercase(), "' OR 1 = 1 --"] {
            assert_eq!(accepted(wrong).await, None, "{wrong}");
        }
        // A new secret; the old one for a minute more.
        let (_, newer) = books.ledger.rotate_key("anna", 60_000).await.unwrap();
        assert_eq!(accepted(newer.reveal()).await.unwrap().salt, found.salt);
        assert!(accepted(secret.reveal()).await.is_some());
        books.pass(60_000);
        assert!(accepted(secret.reveal()).await.is_none() && accepted(newer.reveal()).await.is_some());
        // It expires.
        books.ledger.limit_key("anna", Ok, Some(NOON + 90_000)).await.unwrap();
        assert!(accepted(newer.reveal()).await.is_some());
        books.pass(30_000);
        assert!(accepted(newer.reveal()).await.is_none());
        books.ledger.limit_key("anna", Ok, Some(0)).await.unwrap();
        assert!(accepted(newer.reveal()).await.is_some());
        // Revoked, with both secrets.
        let (_, newest) = books.ledger.rotate_key("anna", 60_000).await.unwrap();
        let revoked = books.ledger.revoke_key("anna").await.unwrap();
        assert!(revoked.revoked_at > 0);
        assert!(accepted(newer.reveal()).await.is_none() && accepted(newest.reveal()).await.is_none());
        assert!(matches!(books.ledger.rotate_key(&key.id, 0).await, Err(LedgerError::Invalid(_))));
        // By its name it is known, and said to be revoked; the last one where there were several.
        let gone = books.ledger.revoke_key("anna").await.unwrap_err();
        assert!(matches!(&gone, LedgerError::Revoked { kind: "key", id, .. } if *id == key.id), "{gone}");
        assert!(gone.to_string().contains("key \"anna\" was revoked already; give its id, key_"), "{gone}");
        let new = NewKey { name: "anna".into(), account: "anna".into(), ..NewKey::default() };
        let (second, _) = books.ledger.create_key(&new).await.unwrap();
        books.pass(1);
        books.ledger.revoke_key("anna").await.unwrap();
        let gone = books.ledger.rotate_key("anna", 0).await;
        assert!(matches!(&gone, Err(LedgerError::Revoked { id, .. }) if *id == second.id), "{gone:?}");
        assert!(matches!(books.ledger.key("annA").await, Err(LedgerError::Unknown { kind: "key", .. })));
        assert!(books.ledger.has_keys().await.unwrap());
    });
}

#[test]
fn names_are_names_and_no_statements() {
    over_both(async |books: Fixture| {
        for name in ["'; DROP TABLE account; --", "Zoë \"the\" Çelik", "100%_?$1", "名前"] {
            let (key, secret) = books.key(name, 1, Limits::default()).await;
            assert_eq!(books.ledger.authenticate(secret.reveal().as_bytes()).await.unwrap().unwrap().key.name, name);
            assert_eq!(books.ledger.key(&key.id).await.unwrap().account, books.ledger.account(name).await.unwrap().id);
        }
        let long = "x".repeat(101);
        for wrong in ["", "  ", "line\nfeed", "nul\0", long.as_str(), "deleted", "名前"] {
            assert!(
                matches!(books.ledger.create_account(wrong, true).await, Err(LedgerError::Invalid(_))),
                "{wrong:?}"
            );
        }
        let nobody = NewKey { name: "k".into(), account: "nobody".into(), ..NewKey::default() };
        assert!(matches!(books.ledger.create_key(&nobody).await, Err(LedgerError::Unknown { kind: "account", .. })));
        assert_eq!(books.ledger.accounts().await.unwrap().len(), 4);
    });
}

#[test]
fn money_comes_in_whole_amounts_and_no_more_than_the_books_hold() {
    over_both(async |books: Fixture| {
        let account = books.ledger.create_account("anna", false).await.unwrap();
        assert!(!account.prepaid);
        let account = books.ledger.credit("anna", EntryKind::TopUp, Money(5_000_000), "cash").await.unwrap();
        let account = books.ledger.credit(&account.id, EntryKind::Grant, Money(1), "").await.unwrap();
        assert_eq!(
            (account.prepaid, account.granted, account.topped_up, account.balance()),
            (true, Money(1), Money(5_000_000), Money(5_000_001))
        );
        for wrong in [0, -1, farthing_ledger::AMOUNT_MAX.0, i64::MAX] {
            assert!(
                matches!(
                    books.ledger.credit("anna", EntryKind::TopUp, Money(wrong), "").await,
                    Err(LedgerError::Invalid(_))
                ),
                "{wrong}"
            );
        }
        assert!(books.ledger.credit("anna", EntryKind::TopUp, Money(1), &"x".repeat(501)).await.is_err());
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(5_000_001));
    });
}

#[test]
fn money_that_was_added_by_mistake_is_taken_back() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let (key, _) = books.key("anna", 1000, Limits::default()).await;
        books.ledger.credit("anna", EntryKind::Grant, Money(300), "welcome").await.unwrap();
        // 200 are reserved: the request in flight can be paid whatever is taken back.
        let flying = meter.reserve(demand("flying", &key, 100, 50)).await.unwrap().unwrap();
        for (amount, note) in [(1101, "too much"), (0, "nothing"), (-1, "less"), (i64::MAX, "all"), (5, " ")] {
            let refused = books.ledger.deduct("anna", Money(amount), note).await;
            assert!(matches!(refused, Err(LedgerError::Invalid(_))), "{amount}: {refused:?}");
        }
        assert!(books.ledger.deduct("anna", Money(1), &"x".repeat(501)).await.is_err());
        assert!(matches!(books.ledger.deduct("bob", Money(1), "x").await, Err(LedgerError::Unknown { .. })));
        let refused = books.ledger.deduct("anna", Money(1101), "too much").await.unwrap_err().to_string();
        assert!(refused.contains("0.001101 cannot be taken back") && refused.contains("at most 0.0011,"), "{refused}");
        books.pass(1);
        let account = books.ledger.deduct("anna", Money(400), "typing error").await.unwrap();
        assert_eq!((account.topped_up, account.granted, account.prepaid), (Money(600), Money(300), true));
        books.pass(1);
        // What was topped up first, then what was granted.
        let account = books.ledger.deduct(&account.id, Money(700), "the rest").await.unwrap();
        assert_eq!((account.topped_up, account.granted), (Money(0), Money(200)));
        assert_eq!(
            flying.settle(Tokens { miss: 100, output: 50, ..Tokens::default() }, "done").await,
            Some(Money(200))
        );
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(0));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        let entries = books.ledger.entries(&account.id, 99).await.unwrap();
        let told: Vec<_> = entries.iter().map(|e| (e.kind.as_str(), e.amount.0, e.note.as_str())).collect();
        assert_eq!(told[..2], [("correction", -700, "the rest"), ("correction", -400, "typing error")]);
        assert!(told.len() == 4 && told.contains(&("grant", 300, "welcome")) && told.contains(&("top_up", 1000, "")));
        assert_eq!(books.ledger.entries(&account.id, 1).await.unwrap(), entries[..1]);
        assert_eq!(books.ledger.entries("nobody", 9).await.unwrap(), []);
        // An account without a balance has nothing to take.
        books.ledger.create_account("metered", false).await.unwrap();
        assert!(books.ledger.deduct("metered", Money(1), "x").await.is_err());
    });
}

#[test]
fn a_code_is_turned_into_as_many_keys_as_it_has_uses() {
    over_both(async |books: Fixture| {
        let limits = Limits { concurrency: Some(2), ..Limits::default() };
        let new = NewInvitation {
            name: "class".into(),
            uses: 3,
            granted: Money(700),
            limits: limits.clone(),
            expires_at: NOON + 1000,
        };
        let (invitation, code) = books.ledger.create_invitation(&new).await.unwrap();
        assert_eq!(books.ledger.redeem("inv-nothing", "eve").await.unwrap(), None);
        let (account, key, secret) = books.ledger.redeem(code.reveal(), "bob").await.unwrap().unwrap();
        assert_eq!(
            (account.balance(), account.prepaid, &key.limits, &key.account),
            (Money(700), true, &limits, &account.id)
        );
        assert_eq!(books.ledger.authenticate(secret.reveal().as_bytes()).await.unwrap().unwrap().key, key);
        // Of the same name, with letters behind it.
        let (other, ..) = books.ledger.redeem(code.reveal(), "bob").await.unwrap().unwrap();
        assert!(other.name.starts_with("bob-") && other.id != account.id, "{}", other.name);
        // Ten at once for the last use.
        let tries = (0..10).map(|n| {
            let (ledger, code) = (books.ledger.clone(), code.clone());
            tokio::spawn(async move { ledger.redeem(code.reveal(), &format!("guest {n}")).await.unwrap().is_some() })
        });
        let mut used = 0;
        for each in tries.collect::<Vec<_>>() {
            used += usize::from(each.await.unwrap());
        }
        assert_eq!((used, books.ledger.accounts().await.unwrap().len()), (1, 3));
        assert_eq!(books.ledger.invitations().await.unwrap()[0].used, 3);
        // Neither an expired one nor a revoked one.
        let more = NewInvitation { uses: 9, name: "late".into(), ..new };
        let (_, expired) = books.ledger.create_invitation(&more).await.unwrap();
        let (_, revoked) = books
            .ledger
            .create_invitation(&NewInvitation { expires_at: 0, name: "gone".into(), ..more })
            .await
            .unwrap();
        books.ledger.revoke_invitation("gone").await.unwrap();
        books.pass(1000);
        assert_eq!(books.ledger.redeem(expired.reveal(), "late").await.unwrap(), None);
        assert_eq!(books.ledger.redeem(revoked.reveal(), "gone").await.unwrap(), None);
        let none = NewInvitation { name: "none".into(), ..NewInvitation::default() };
        assert!(matches!(books.ledger.create_invitation(&none).await, Err(LedgerError::Invalid(_))));
        assert!(matches!(books.ledger.revoke_invitation("nothing").await, Err(LedgerError::Unknown { .. })));
        let gone = books.ledger.revoke_invitation("gone").await;
        assert!(matches!(gone, Err(LedgerError::Revoked { kind: "invitation", .. })), "{gone:?}");
        let twin = NewInvitation { name: "class".into(), uses: 1, ..NewInvitation::default() };
        books.ledger.create_invitation(&twin).await.unwrap();
        let several = books.ledger.revoke_invitation("class").await.unwrap_err().to_string();
        assert!(several.contains("give the id of one (`farthing invitations list`)"), "{several}");
        assert_eq!(invitation.hint, code.reveal()[code.reveal().len() - 4..]);
    });
}

#[test]
fn a_deleted_account_leaves_numbers_that_are_nobodys() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let all = UsageFilter { until: NOON + 1_000_000, ..UsageFilter::default() };
        let (anna, secret) = books.key("anna", 1_000_000, Limits::default()).await;
        let (bob, _) = books.key("bob", 1_000_000, Limits::default()).await;
        for (request, key) in [("her request", &anna), ("b", &bob)] {
            let metered = meter.reserve(demand(request, key, 10, 10)).await.unwrap().unwrap();
            metered.settle(Tokens { miss: 10, output: 5, ..Tokens::default() }, "done").await.unwrap();
        }
        let mut flying = meter.reserve(demand("c", &anna, 10, 10)).await.unwrap().unwrap();
        flying.note(Tokens { miss: 10, output: 2, ..Tokens::default() }).await;
        books.ledger.delete_account("anna").await.unwrap();
        // What flies is settled as it stood, and hears of it.
        assert_eq!(
            flying.note(Tokens { miss: 10, output: 3, ..Tokens::default() }).await,
            farthing_ledger::Noted::Gone
        );
        assert_eq!(flying.settle(Tokens { miss: 10, output: 3, ..Tokens::default() }, "done").await, None);
        assert!(books.ledger.authenticate(secret.reveal().as_bytes()).await.unwrap().is_none());
        assert!(books.ledger.account("anna").await.is_err() && books.ledger.keys().await.unwrap().len() == 1);
        let sums = books.ledger.usage(&all, GroupBy::Account).await.unwrap();
        let deleted = sums.iter().find(|sum| sum.group == "deleted").unwrap();
        assert_eq!((sums.len(), deleted.requests, deleted.tokens.all(), deleted.cost), (2, 2, 27, Money(34)));
        // A second one adds to the first.
        books.ledger.delete_account("bob").await.unwrap();
        for by in [GroupBy::Key, GroupBy::Account, GroupBy::Model, GroupBy::Day, GroupBy::Hour] {
            let sums = books.ledger.usage(&all, by).await.unwrap();
            assert_eq!((sums.len(), sums[0].requests, sums[0].tokens.all()), (1, 3, 42), "{by:?}");
        }
        assert!(
            books
                .ledger
                .requests(&all, 9)
                .await
                .unwrap()
                .iter()
                .all(|row| row.key == "deleted" && row.account == "deleted")
        );
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        let mut lines = String::new();
        books
            .ledger
            .export(&mut |line| {
                lines += &line.to_string();
                Ok(())
            })
            .await
            .unwrap();
        // Nor what a client called its request.
        for gone in [&anna.id, &anna.account, "anna", &bob.id, "bob", "her request"] {
            assert!(!lines.contains(gone), "{gone}");
        }
    });
}

#[test]
fn a_name_is_no_id_and_nobody_joins_an_account_by_its_name() {
    over_both(async |books: Fixture| {
        let ledger = &books.ledger;
        let (key, _) = books.key("anna", 0, Limits::default()).await;
        let zero_width = "an\u{200b}na".to_string();
        let turned = "\u{202e}anna".to_string();
        for wrong in
            [&key.id, &key.account, "inv_1", " anna", "anna ", "an  na", "an\u{a0}na", "", " ", &zero_width, &turned]
        {
            assert!(matches!(ledger.create_account(wrong, false).await, Err(LedgerError::Invalid(_))), "{wrong:?}");
            let new = NewKey { name: wrong.into(), account: "anna".into(), ..NewKey::default() };
            assert!(matches!(ledger.create_key(&new).await, Err(LedgerError::Invalid(_))), "{wrong:?}");
        }
        // In books of before a key may be named as another's id: the id is what counts.
        let new = NewKey { name: "second".into(), account: "anna".into(), ..NewKey::default() };
        let (second, _) = ledger.create_key(&new).await.unwrap();
        books
            .tamper("UPDATE api_key SET name = (SELECT id FROM api_key WHERE name = 'anna') WHERE name = 'second'")
            .await;
        assert_eq!(ledger.revoke_key(&key.id).await.unwrap().id, key.id);
        assert_eq!(ledger.key(&second.id).await.unwrap().revoked_at, 0);
        // A key whose account was not named: the account of that name is somebody else's.
        let own = NewKey { name: "anna".into(), account: "anna".into(), own_account: true, ..NewKey::default() };
        for credits in [&[][..], &[(EntryKind::TopUp, Money(25))]] {
            let refused = ledger.create_key_and_account(&own, credits).await;
            assert!(matches!(refused, Err(LedgerError::Invalid(said)) if said.contains("somebody else's")));
        }
        assert_eq!(ledger.account("anna").await.unwrap().balance(), Money(0));
        let joins = NewKey { own_account: false, ..own };
        assert!(!ledger.create_key_and_account(&joins, &[]).await.unwrap().account_is_new);
    });
}

#[test]
fn a_key_comes_with_its_account_and_money_or_not_at_all() {
    over_both(async |books: Fixture| {
        let new = NewKey { name: "laptop".into(), account: "anna".into(), ..NewKey::default() };
        let credits = [(EntryKind::TopUp, Money(500)), (EntryKind::Grant, Money(70))];
        let made = books.ledger.create_key_and_account(&new, &credits).await.unwrap();
        assert!(made.account_is_new && made.account.prepaid && made.key.account == made.account.id);
        assert_eq!((made.account.topped_up, made.account.granted), (Money(500), Money(70)));
        assert!(books.ledger.authenticate(made.secret.reveal().as_bytes()).await.unwrap().is_some());
        // Another key of the same account, by its id; without money an account is only metered.
        let more = NewKey { account: made.account.id.clone(), ..new.clone() };
        let second = books.ledger.create_key_and_account(&more, &credits[1..]).await.unwrap();
        assert_eq!((second.account_is_new, second.account.granted), (false, Money(140)));
        let bare = NewKey { account: "bob".into(), ..new.clone() };
        assert!(!books.ledger.create_key_and_account(&bare, &[]).await.unwrap().account.prepaid);
        // What fails last takes the rest with it.
        let zero = Budget { day: None, month: Some(0), total: None };
        let no_money = Limits { money: Budget { total: Some(Money(0)), ..Budget::default() }, ..Limits::default() };
        for none in [Limits { tokens: zero, ..Limits::default() }, no_money] {
            let refused = books.ledger.create_key_and_account(&NewKey { limits: none, ..new.clone() }, &[]).await;
            assert!(refused.unwrap_err().to_string().contains("of 0 would allow nothing"));
        }
        let none = Limits { concurrency: Some(0), ..Limits::default() };
        let wrong = [
            (NewKey { account: "eve".into(), limits: none, ..new.clone() }, &credits[..]),
            (NewKey { account: "eve".into(), name: "line\nfeed".into(), ..new.clone() }, &credits[..]),
            (NewKey { account: "eve".into(), ..new.clone() }, &[(EntryKind::Grant, Money(0))][..]),
            (new, &[(EntryKind::Grant, Money(1)), (EntryKind::TopUp, farthing_ledger::AMOUNT_MAX)][..]),
        ];
        for (new, credits) in wrong {
            let refused = books.ledger.create_key_and_account(&new, credits).await;
            assert!(matches!(refused, Err(LedgerError::Invalid(_))), "{new:?}");
        }
        let (accounts, keys) = (books.ledger.accounts().await.unwrap(), books.ledger.keys().await.unwrap());
        assert_eq!((accounts.len(), keys.len()), (2, 3));
        assert_eq!(books.ledger.account("anna").await.unwrap().granted, Money(140));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn limits_are_changed_by_what_is_given() {
    let old: Limits = serde_json::from_value(json!({
        "models": ["a"], "concurrency": 3, "tokens": {"day": 5, "month": 6}, "money": {"total": 7},
    }))
    .unwrap();
    let patched = |patch: Value| old.patched(patch.as_object().unwrap().clone());
    assert_eq!(patched(json!({})).unwrap(), old);
    let new = patched(json!({"models": null, "requests_per_minute": 9, "tokens": {"day": null, "total": 8}})).unwrap();
    let tokens = Budget { day: None, month: Some(6), total: Some(8) };
    assert_eq!(new, Limits { models: Vec::new(), requests_per_minute: Some(9), tokens, ..old.clone() });
    assert_eq!(patched(json!({"tokens": null})).unwrap().tokens, Budget::default());
    for wrong in [
        json!({"request_per_minute": 9}),
        json!({"tokens": {"week": 1}}),
        json!({"tokens": 5}),
        json!({"concurrency": -1}),
        json!({"concurrency": 1.5}),
        json!({"models": "a"}),
    ] {
        assert!(matches!(patched(wrong.clone()), Err(LedgerError::Invalid(_))), "{wrong}");
    }
}

#[test]
fn what_is_left_is_neither_spent_nor_reserved() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let limits = Limits {
            requests_per_minute: Some(10),
            concurrency: Some(3),
            tokens: Budget { day: Some(1000), ..Budget::default() },
            money: Budget { total: Some(Money(400)), ..Budget::default() },
            ..Limits::default()
        };
        let (key, _) = books.key("anna", 500, limits).await;
        let left = async || books.ledger.left(&key.id).await.unwrap();
        let done = meter.reserve(demand("done", &key, 100, 50)).await.unwrap().unwrap();
        done.settle(Tokens { miss: 100, output: 20, ..Tokens::default() }, "done").await.unwrap();
        let flying = meter.reserve(demand("flying", &key, 10, 20)).await.unwrap().unwrap();
        let now = left().await;
        assert_eq!((now.tokens.day, now.tokens.month, now.money.total), (Some(850), None, Some(Money(210))));
        assert_eq!((now.balance, now.concurrency, now.tokens_per_minute), (Some(Money(310)), Some(2), None));
        assert_eq!(now.requests_per_minute.map(|rate| (rate.limit, rate.remaining)), Some((10, 8)));
        // Asking takes nothing, and says what a reservation would say.
        let small = demand("small", &key, 100, 55);
        assert_eq!(books.ledger.refusal(&small).await.unwrap(), None);
        let large = demand("large", &key, 100, 56);
        let refused = books.ledger.refusal(&large).await.unwrap();
        assert!(
            matches!(refused, Some(Refusal::MoneyBudget { left: Money(210), needed: Money(212), .. })),
            "{refused:?}"
        );
        assert_eq!(left().await, now);
        assert_eq!(meter.reserve(large).await.unwrap().unwrap_err(), refused.unwrap());
        drop(flying);
        meter.flush().await;
        assert_eq!(left().await.balance, Some(Money(360)));
        assert!(matches!(books.ledger.left("nothing").await, Err(LedgerError::Unknown { .. })));
        let nobody = demand("nobody", &farthing_ledger::Key { id: "nothing".into(), ..key.clone() }, 1, 1);
        assert_eq!(books.ledger.refusal(&nobody).await.unwrap(), Some(Refusal::Key));
    });
}

#[test]
fn nothing_prints_salts_or_secrets() {
    over_both(async |books: Fixture| {
        let (_, secret) = books.key("anna", 0, Limits::default()).await;
        let found = books.ledger.authenticate(secret.reveal().as_bytes()).await.unwrap().unwrap();
        let made = books
            .ledger
            .create_key_and_account(&NewKey { name: "a".into(), account: "a".into(), ..NewKey::default() }, &[])
            .await
            .unwrap();
        let printed = format!("{found:?} {found:#?} {secret:?} {made:?} {:?}", books.ledger);
        let salt = format!("{:?}", found.salt);
        let hex: String = found.salt.iter().map(|byte| format!("{byte:02x}")).collect();
        for hidden in [secret.reveal(), made.secret.reveal(), &salt[1..salt.len() - 1], &hex, "salt"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
        if books.address.starts_with("postgres") {
            let address = books.address.replace("farthing@", "farthing:hunter2@");
            let ledger = Ledger::open(&address, "CNY", Clock::default()).await.unwrap();
            assert!(!format!("{ledger:?} {ledger:#?}").contains("hunter2"));
        }
    });
}

#[tokio::test]
async fn a_ledger_that_is_not_there_is_not_made_by_opening_an_existing_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books.db");
    let address = file.to_str().unwrap();
    let open = async || Ledger::open_existing(address, "CNY", Clock::default()).await;
    let said = open().await.unwrap_err();
    assert!(matches!(&said, LedgerError::Absent(path) if *path == file) && said.to_string().contains("keys create"));
    // One without a byte is not there yet.
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open().await, Err(LedgerError::Absent(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    std::fs::write(&file, "another file").unwrap();
    assert!(matches!(open().await, Err(LedgerError::File { .. })));
    std::fs::remove_file(&file).unwrap();
    Ledger::open(address, "EUR", Clock::default()).await.unwrap().close().await;
    assert_eq!(open().await.unwrap().currency(), "EUR");
    let beside = directory.path().join("no/such/books.db");
    assert!(Ledger::open_existing(beside.to_str().unwrap(), "EUR", Clock::default()).await.is_err());
    assert!(!beside.parent().unwrap().exists());
}
