//! Keys, accounts, invitations and usage in a ledger, by the commands that administer it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::ledger::{Clock, Demand, EntryKind, Ledger, Meter, Money, Price, Tokens};
use serde_json::Value;

use super::*;

/// Noon of Sunday, 29 November 2026.
const NOON: i64 = 1_795_953_600_000;

/// A ledger of a test's own.
struct Books {
    scratch: Scratch,
    file: String,
}

impl Books {
    fn new(name: &str) -> Books {
        let scratch = Scratch::new(&format!("ledger-{name}"));
        let file = scratch.0.join("books.db").to_str().unwrap().to_string();
        Books { scratch, file }
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--ledger", &self.file]].concat()
    }

    fn run(&self, args: &[&str]) -> Output {
        run_with(&self.args(args), "")
    }

    /// What a command that succeeds prints, and what it says.
    fn says(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    fn prints(&self, args: &[&str]) -> String {
        self.says(args).0
    }

    fn json(&self, args: &[&str]) -> Value {
        let (printed, said) = self.says(&[args, &["--json"]].concat());
        assert_eq!(said, "", "{args:?}");
        serde_json::from_str(&printed).unwrap()
    }

    /// The one line of a failure with an exit code.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        fails_with(code, &self.args(args))
    }

    /// A usage error, on one line.
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{args:?}: {output:?}");
        text(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn holds(&self, secret: &str) -> bool {
        let files =
            std::fs::read_dir(&self.scratch.0).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.into_iter().any(|bytes| bytes.windows(secret.len()).any(|part| part == secret.as_bytes()))
    }

    fn path(&self, name: &str) -> String {
        self.scratch.0.join(name).to_str().unwrap().to_string()
    }

    /// Works on the ledger as a server does, at noon.
    fn serve<T>(&self, work: impl AsyncFnOnce(Ledger, Arc<AtomicI64>) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let now = Arc::new(AtomicI64::new(NOON));
            let clock = Arc::clone(&now);
            let clock = Clock::new(move || clock.load(Ordering::SeqCst));
            work(Ledger::open(&self.file, "USD", clock).await.unwrap(), now).await
        })
    }

    /// Whether a server accepts a secret.
    fn accepts(&self, secret: &str, ms_later: i64) -> bool {
        let now = Clock::default().now() + ms_later;
        self.serve(async |ledger: Ledger, clock: Arc<AtomicI64>| {
            clock.store(now, Ordering::SeqCst);
            let found = ledger.authenticate(secret.as_bytes()).await.unwrap().is_some();
            ledger.close().await;
            found
        })
    }

    /// A request of each key, an hour apart, the second on the next day.
    fn used_by(&self, keys: &[&str], model: &str) {
        let prices = Price { hit: 100_000, miss: 1_000_000, output: 2_000_000 };
        self.serve(async |ledger: Ledger, now: Arc<AtomicI64>| {
            let meter = Meter::start(&ledger, "test", 90).await.unwrap();
            for (number, key) in keys.iter().enumerate() {
                let demand = Demand {
                    request: format!("request-{number}-of-{model}"),
                    key: ledger.key(key).await.unwrap().id,
                    endpoint: "/v1/chat/completions".to_string(),
                    model: model.to_string(),
                    price: prices,
                    prompt: 1000,
                    output: 1000,
                    named: true,
                    choices: 1,
                };
                let metered = meter.reserve(demand).await.unwrap().unwrap();
                let tokens = Tokens { hit: 640, miss: 360, output: 500, reasoning: 50 };
                metered.settle(tokens, "done").await.unwrap();
                now.fetch_add(13 * 3_600_000, Ordering::SeqCst);
            }
            meter.finish().await;
            ledger.close().await;
        });
    }
}

/// The secret, which is all that is printed.
fn secret(printed: &str) -> String {
    let line = printed.strip_suffix('\n').unwrap();
    assert!(line.starts_with("sk-ft-") && line.len() == 46 && !line.contains(char::is_whitespace), "{printed:?}");
    line.to_string()
}

#[test]
fn a_key_lives_from_creation_to_revocation() {
    let books = Books::new("life");
    let limits = ["--requests-per-minute", "60", "--money-per-day", "1.50", "--model", "qwen", "--model", "seed"];
    let (printed, said) =
        books.says(&[&["keys", "create", "anna", "--top-up", "10", "--expires", "30d"], &limits[..]].concat());
    let first = secret(&printed);
    assert!(!said.contains(&first), "{said}");
    for part in [
        "new ledger: ",
        "(USD)",
        "new account: anna (acc_",
        "balance 10.00 USD",
        "qwen, seed",
        "1.50 USD",
        "not shown again",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(books.accepts(&first, 0) && !books.accepts(&first, 31 * 86_400_000));

    // Quiet, for a script: the secret alone, and nothing beside it.
    let (printed, said) = books.says(&["keys", "create", "ci", "--account", "anna", "-q"]);
    let other = secret(&printed);
    assert_eq!(said, "");
    let listed = books.prints(&["keys", "list"]);
    assert!(listed.contains("anna") && listed.contains(&format!("...{}", &other[42..])), "{listed}");
    for secret in [&first, &other] {
        assert!(!listed.contains(secret) && !books.holds(secret));
    }

    let (_, said) = books.says(&[
        "keys",
        "limit",
        "anna",
        "--requests-per-minute",
        "none",
        "--tokens-per-day",
        "5000",
        "--model",
        "none",
    ]);
    assert!(said.contains("tokens a day") && said.contains("5000") && said.contains("1.50 USD"), "{said}");
    assert!(!said.contains("requests a minute") && !said.contains("qwen"), "{said}");
    let shown = books.json(&["keys", "show", "anna"]);
    assert_eq!(shown["key"]["limits"], serde_json::json!({"tokens": {"day": 5000}, "money": {"day": 1_500_000}}));
    assert!(shown["key"]["expires_at"].as_i64().unwrap() > 0);
    assert_eq!(books.json(&["keys", "limit", "anna", "--expires", "none"])["key"]["expires_at"], 0);

    let rotated = secret(&books.prints(&["keys", "rotate", "anna", "--grace", "1h"]));
    assert!(books.accepts(&rotated, 0) && books.accepts(&first, 0) && !books.accepts(&first, 3_700_000));
    let again = secret(&books.prints(&["keys", "rotate", "anna"]));
    assert!(books.accepts(&again, 0) && !books.accepts(&rotated, 0));

    let id = books.json(&["keys", "show", "anna"])["key"]["id"].as_str().unwrap().to_string();
    let (printed, said) = books.says(&["keys", "revoke", "anna"]);
    assert_eq!((printed.as_str(), said), ("", format!("revoked key anna ({id})\n")));
    assert!(!books.accepts(&again, 0) && books.accepts(&other, 0));
    for command in ["show", "revoke", "rotate"] {
        let said = books.fails(1, &["keys", command, "anna"]);
        assert!(said.contains(&format!("key \"anna\" was revoked already; give its id, {id}, to name it")), "{said}");
    }
    let said = books.fails(1, &["keys", "show", "bob"]);
    assert!(said.contains("there is no key \"bob\"; `farthing keys list` lists all"), "{said}");
    assert_eq!(books.json(&["keys", "show", &id])["key"]["state"], "revoked");
    assert!(books.fails(1, &["keys", "rotate", &id]).contains("was revoked"));
}

#[test]
fn programs_get_objects() {
    let books = Books::new("json");
    let output = books.run(&["keys", "create", "anna", "--grant", "2.5", "--json", "--quiet", "--currency", "EUR"]);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let given = secret(&format!("{}\n", made["secret"].as_str().unwrap()));
    assert_eq!((made["currency"].as_str(), made["key"]["name"].as_str()), (Some("EUR"), Some("anna")));
    assert_eq!(
        (made["account"]["granted"].as_i64(), made["account"]["prepaid"].as_bool()),
        (Some(2_500_000), Some(true))
    );
    assert_eq!(made["key"]["hint"].as_str(), Some(&given[42..]));
    let keys = books.json(&["keys", "list"]);
    assert_eq!(
        (keys["keys"][0]["state"].as_str(), keys["keys"][0]["account_name"].as_str()),
        (Some("valid"), Some("anna"))
    );
    assert!(!keys.to_string().contains(&given));
    assert_eq!(books.json(&["accounts", "list"])["accounts"][0]["balance"], 2_500_000);
    assert_eq!(books.json(&["accounts", "show", "anna"])["keys"][0]["name"], "anna");
    assert_eq!(books.json(&["invitations", "list"])["invitations"], serde_json::json!([]));
    assert_eq!(books.json(&["ledger", "check"])["findings"], serde_json::json!([]));
    let administrator = books.json(&["keys", "create", "root", "--admin"]);
    assert_eq!(
        (administrator["key"]["state"].as_str(), administrator["account"]["prepaid"].as_bool()),
        (Some("admin"), Some(false))
    );
    let error: Value = serde_json::from_str(&books.fails(1, &["keys", "show", "bob", "--json"])).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("\"bob\""));
}

#[test]
fn money_is_added_and_an_account_deleted() {
    let books = Books::new("accounts");
    books.prints(&["accounts", "create", "anna"]);
    assert!(books.prints(&["accounts", "show", "anna"]).contains("only metered"));
    let (_, said) = books.says(&["accounts", "top-up", "anna", "12.5", "--note", "invoice 17"]);
    assert!(said.contains("balance 12.50 USD"), "{said}");
    books.prints(&["accounts", "grant", "anna", "0.000001"]);
    let shown = books.prints(&["accounts", "show", "anna"]);
    let told = |shown: &str, line: &str| {
        assert!(shown.lines().any(|l| l.split_whitespace().eq(line.split_whitespace())), "{line}: {shown}");
    };
    for line in
        ["balance 12.500001 USD", "left of what was granted 0.000001 USD", "left of what was topped up 12.50 USD"]
    {
        told(&shown, line);
    }
    // A mistake is taken back by an entry of its own, and no more than is there.
    books.prints(&["accounts", "top-up", "anna", "200", "--note", "invoice 18"]);
    let said = books.fails(1, &["accounts", "deduct", "anna", "212.6", "--note", "all"]);
    assert!(said.contains("at most 212.500001"), "{said}");
    let said = books.refuses(&["accounts", "deduct", "anna", "198"]);
    assert!(said.contains("--note <TEXT>"), "{said}");
    let (_, said) = books.says(&["accounts", "deduct", "anna", "198", "--note", "invoice 18 was 2"]);
    assert!(said.contains("balance 14.500001 USD"), "{said}");
    let entries = books.prints(&["accounts", "entries", "anna"]);
    let kinds: Vec<&str> = entries.lines().map(|line| line.split_whitespace().nth(3).unwrap_or_default()).collect();
    assert_eq!(kinds, ["USD", "correction", "top-up", "grant", "top-up"], "{entries}");
    assert!(
        entries.contains("-198.000000  invoice 18 was 2\n") && entries.contains("  12.500000  invoice 17\n"),
        "{entries}"
    );
    let (newest, said) = books.says(&["accounts", "entries", "anna", "--most", "1"]);
    assert!(newest.lines().count() == 2 && said.contains("only the newest 1 are shown"), "{newest}{said}");
    let object = books.json(&["accounts", "entries", "anna", "--most", "2"]);
    assert_eq!(
        (&object["entries"][0]["amount"], &object["entries"][1]["note"]),
        (&(-198_000_000).into(), &"invoice 18".into())
    );
    assert_eq!(object["entries"].as_array().unwrap().len(), 2);
    books.prints(&["accounts", "create", "metered"]);
    let (none, said) = books.says(&["accounts", "entries", "metered"]);
    assert!(none.is_empty() && said.contains("no money was added to metered"), "{said}");
    books.prints(&["accounts", "delete", "metered", "--yes"]);
    assert_eq!(books.says(&["ledger", "check"]).1, "everything agrees\n");
    assert!(books.prints(&["ledger", "export"]).contains("invoice 17"));
    assert!(
        books.fails(1, &["accounts", "top-up", "bob", "1"]).contains("no account \"bob\"; `farthing accounts list`")
    );
    assert!(books.fails(1, &["accounts", "create", "anna"]).contains("there is an account \"anna\" already"));

    let secret = secret(&books.prints(&["keys", "create", "laptop", "--account", "anna"]));
    let said = books.fails(2, &["accounts", "delete", "anna"]);
    assert!(said.contains("1 key") && said.contains("14.500001 USD") && said.contains("--yes"), "{said}");
    assert!(books.accepts(&secret, 0));
    let (_, said) = books.says(&["accounts", "delete", "anna", "--yes"]);
    assert!(said.starts_with("deleted account anna (acc_"), "{said}");
    assert!(!books.accepts(&secret, 0) && books.prints(&["accounts", "list"]).is_empty());
    assert_eq!(books.prints(&["keys", "list"]), "");
}

#[test]
fn an_invitation_becomes_accounts_until_it_is_used_up_or_revoked() {
    let books = Books::new("invitations");
    let printed = books.prints(&[
        "invitations",
        "create",
        "class",
        "--uses",
        "2",
        "--grant",
        "5",
        "--expires",
        "7d",
        "--tokens-per-minute",
        "1000",
    ]);
    let code = printed.trim_end().to_string();
    assert!(code.starts_with("inv-") && !books.holds(&code), "{printed}");
    let (printed, said) = books.says(&["invitations", "redeem", &code, "anna"]);
    assert!(books.accepts(&secret(&printed), 0) && said.contains("balance 5.00 USD"), "{said}");
    let second = books.json(&["invitations", "redeem", &code, "anna"]);
    assert!(second["account"]["name"].as_str().unwrap().starts_with("anna-"), "{second}");
    assert_eq!(second["key"]["limits"]["tokens_per_minute"], 1000);
    let said = books.fails(1, &["invitations", "redeem", &code, "bob"]);
    assert!(said.contains("the code is not accepted") && !said.contains(&code), "{said}");
    let listed = books.json(&["invitations", "list"]);
    assert_eq!((&listed["invitations"][0]["state"], &listed["invitations"][0]["used"]), (&"used up".into(), &2.into()));

    let code = books.json(&["invitations", "create", "friends", "--uses", "9"])["secret"].as_str().unwrap().to_string();
    books.prints(&["invitations", "revoke", "friends"]);
    books.fails(1, &["invitations", "redeem", &code, "bob"]);
    let table = books.prints(&["invitations", "list"]);
    assert!(table.contains("revoked") && !table.contains(&code), "{table}");
    assert!(
        books.fails(1, &["invitations", "revoke", "friends"]).contains("invitation \"friends\" was revoked already")
    );
    for _ in 0..2 {
        books.prints(&["invitations", "create", "twins", "--uses", "1"]);
    }
    let said = books.fails(1, &["invitations", "revoke", "twins"]);
    assert!(said.contains("give the id of one (`farthing invitations list`)"), "{said}");
}

#[test]
fn usage_is_summed_and_listed() {
    let books = Books::new("usage");
    books.prints(&["keys", "create", "=cmd()", "--account", "Smith, \"Bob\""]);
    books.prints(&["keys", "create", "ci", "--account", "anna", "--top-up", "1"]);
    books.used_by(&["ci", "=cmd()"], "qwen");
    books.used_by(&["ci"], "seed");
    // A request costs 64 + 360 + 1000 micro-units.
    let period = ["--from", "2026-11-29", "--until", "2026-11-30"];
    let usage = |args: &[&str]| books.prints(&[&["usage"], &period[..], args].concat());
    let days = usage(&[]);
    let words: Vec<Vec<&str>> = days.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["2026-11-29", "2", "1280", "720", "1000", "100", "0.002848"]);
    assert_eq!(words[2], ["2026-11-30", "1", "640", "360", "500", "50", "0.001424"]);
    assert_eq!(words[3], ["sum", "3", "1920", "1080", "1500", "150", "0.004272"]);
    let ends: Vec<usize> = days.lines().map(str::len).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "figures end below each other:\n{days}");

    let by = |group: &str| books.json(&[&["usage"], &period[..], &["--by", group]].concat());
    assert_eq!(
        (by("model")["rows"][0]["model"].as_str(), &by("model")["rows"][0]["cost"]),
        (Some("qwen"), &2848.into())
    );
    assert_eq!(by("hour")["rows"][1]["hour"], "2026-11-30T01:00Z");
    assert_eq!(by("account")["rows"].as_array().unwrap().iter().filter(|row| row["name"] == "anna").count(), 1);
    assert_eq!((&by("day")["sum"]["requests"], &by("day")["until"]), (&3.into(), &"2026-11-30".into()));

    // The dearest first; amounts have their points below each other.
    for group in ["key", "account"] {
        let rows = by(group)["rows"].as_array().unwrap().clone();
        let costs: Vec<u64> = rows.iter().map(|row| row["cost"].as_u64().unwrap()).collect();
        assert_eq!(costs, [2848, 1424], "{group}");
    }
    let keys = usage(&["--by", "key", "--csv"]);
    assert!(keys.starts_with("key,id,requests,prompt_hit,prompt_miss,output,reasoning,cost_USD\r\n"), "{keys}");
    assert!(keys.contains("\r\n'=cmd(),key_") && keys.contains(",1,640,360,500,50,0.001424\r\n"), "{keys}");
    assert!(usage(&["--by", "account", "--csv"]).contains("\r\n\"Smith, \"\"Bob\"\"\",acc_"));
    assert_eq!(keys.lines().count(), 3);

    let requests = books.json(&[&["usage", "--requests", "--most", "9", "--key", "ci"], &period[..]].concat());
    assert_eq!(requests["requests"].as_array().unwrap().len(), 2);
    assert_eq!((&requests["requests"][0]["key_name"], &requests["sum"]["cost"]), (&"ci".into(), &2848.into()));
    let (listed, said) = books.says(&[&["usage", "--requests", "--most", "1"], &period[..]].concat());
    assert!(
        listed.contains("2026-11-30 01:00:00  request-1-of-qwen") && said.contains("only the newest 1"),
        "{listed}{said}"
    );
    assert_eq!(usage(&["--model", "seed", "--account", "anna"]).lines().count(), 3);
    let said = books.fails(1, &["usage", "--model", "sead"]);
    assert!(said.contains("there is no usage of model \"sead\"; near it is seed, qwen"), "{said}");
    let (none, said) = books.says(&["usage", "--from", "2001-01-01", "--until", "2001-01-31"]);
    assert!(none.lines().count() == 2 && said.contains("no usage from 2001-01-01 to 2001-01-31"), "{none}{said}");

    // What was used stays when an account is deleted, as nobody's.
    books.prints(&["accounts", "delete", "anna", "--yes"]);
    assert!(usage(&["--account", "deleted"]).contains("0.002848"));
    assert!(usage(&[]).ends_with("0.004272\n"));
    assert!(books.fails(1, &["usage", "--key", "ci"]).contains("there is no key \"ci\""));
}

#[test]
fn a_key_is_shown_with_what_is_left() {
    let books = Books::new("left");
    let limits = [
        "--requests-per-minute=10",
        "--concurrency=3",
        "--tokens-total=5000",
        "--money-total=0.01",
        "--endpoint=/v1/chat/completions",
    ];
    books.prints(&[&["keys", "create", "ci", "--top-up", "1"], &limits[..]].concat());
    books.used_by(&["ci"], "qwen");
    let shown = books.prints(&["keys", "show", "ci"]);
    for line in [
        "requests a minute 10, 10 left",
        "concurrent requests 3, 3 left",
        "tokens in all 5000, 3500 left",
        "money in all 0.01 USD, 0.008576 left",
    ] {
        assert!(shown.lines().any(|l| l.split_whitespace().eq(line.split_whitespace())), "{line}: {shown}");
    }
    let left = &books.json(&["keys", "show", "ci"])["left"];
    assert_eq!((&left["tokens"]["total"], &left["money"]["total"]), (&3500.into(), &8576.into()));
    assert_eq!((&left["balance"], &left["tokens_per_minute"]), (&998_576.into(), &Value::Null));
}

#[test]
fn what_is_wrong_is_named() {
    let books = Books::new("wrong");
    let create = |args: &[&'static str]| books.refuses(&[&["keys", "create"], args].concat());
    for (args, said) in [
        (&["anna", "--top-up", "1e3"][..], "such as 2.50"),
        (&["anna", "--top-up", "-5"], "'--top-up <AMOUNT>'"),
        (&["anna", "--grant", "0"], "give more than 0"),
        (&["anna", "--grant", "2000000000"], "is too much"),
        (&["anna", "--expires", "30"], "a number with s, m, h or d"),
        (&["anna", "--expires", "0d"], "give more than 0, or none"),
        (&["anna", "--expires", "40000d"], "at most 36500d"),
        (&["anna", "--requests-per-minute", "0"], "a whole number from 1 on, or none"),
        (&["anna", "--endpoint", "v1"], "such as /v1/chat/completions"),
        (&["anna", "--endpoint", "/v1/nosuch"], "no server uses a model at /v1/nosuch; near it is /v1/"),
        (&["anna", "--endpoint", "/health"], "no server uses a model at /health"),
        (&["anna", "--money-per-day", "0"], "give more than 0, such as 2.50, or none"),
        (&["anna", "--model", "none", "--model", "x"], "--model none is given beside others"),
        (&["anna", "--admin", "--tokens-total", "5"], "cannot be used with"),
        (&["anna", "--currency", "usd"], "such as USD, EUR or CNY"),
        (&[" "], "1 to 100 printable characters"),
        (&["a\nb"], "1 to 100 printable characters"),
    ] {
        let line = create(args);
        assert!(line.contains(said), "{args:?}: {line}");
    }
    for (args, said) in [
        (&["usage", "--from", "29.11.2026"][..], "such as 2026-11-29"),
        (&["usage", "--from", "2026-12-01", "--until", "2026-11-30"], "it is after the last day, 2026-11-30"),
        (&["usage", "--csv", "--json"], "cannot be used with"),
        (&["usage", "--by", "week"], "possible values: key, account, model, day, hour"),
        (&["usage", "--most", "5"], "--requests"),
        (&["invitations", "create", "class"], "--uses <N>"),
        (&["invitations", "create", "class", "--uses", "0"], "0 is not in 1..=1000000"),
        (&["accounts", "top-up", "anna", "-1"], "'<AMOUNT>'"),
    ] {
        let line = books.refuses(args);
        assert!(line.contains(said), "{args:?}: {line}");
    }
    // None of this made a ledger.
    assert_eq!(std::fs::read_dir(&books.scratch.0).unwrap().count(), 0);
    books.prints(&["keys", "create", "anna"]);
    assert!(
        books.fails(1, &["keys", "create", "anna", "--top-up", "5"]).contains("already, which may be somebody else's")
    );
    books.prints(&["keys", "create", "anna", "--account", "anna", "--currency", "USD"]);
    assert!(books.refuses(&["keys", "create", "bob", "--currency", "EUR"]).contains("this ledger is in USD"));
    assert!(books.refuses(&["keys", "limit", "anna"]).contains("no limit is given"));
    assert!(books.fails(1, &["keys", "revoke", "anna"]).contains("several keys are named \"anna\""));
    assert!(books.fails(1, &["accounts", "create", "deleted"]).contains("\"deleted\""));
}

#[test]
fn a_ledger_that_is_not_there_is_not_made_by_reading() {
    let books = Books::new("missing");
    let commands = [
        &["keys", "list"][..],
        &["keys", "revoke", "x"],
        &["accounts", "top-up", "x", "1"],
        &["invitations", "redeem", "inv-x", "x"],
        &["usage"],
        &["ledger", "check"],
        &["ledger", "export"],
        &["ledger", "backup", "copy.db"],
    ];
    for args in commands {
        let said = books.fails(1, args);
        assert!(said.contains(&format!("{}: there is no ledger; `farthing keys create NAME`", books.file)), "{said}");
    }
    assert_eq!(std::fs::read_dir(&books.scratch.0).unwrap().count(), 0);

    // Another file is no ledger, stays as it is, and gets no company.
    for bytes in ["not a database, but long enough to have a header of a hundred bytes: ".repeat(3), "x".to_string()] {
        std::fs::write(&books.file, &bytes).unwrap();
        for args in [&["keys", "list"][..], &["keys", "create", "anna"]] {
            let said = books.fails(1, args);
            assert!(said.contains(&books.file) && said.contains("--ledger names another"), "{said}");
        }
        assert_eq!(std::fs::read_to_string(&books.file).unwrap(), bytes);
    }
    let directory = books.scratch.0.to_str().unwrap();
    assert!(fail(&["keys", "list", "--ledger", directory]).contains(directory));
    assert!(fail(&["keys", "list", "--ledger", &format!("{}/x.db", books.file)]).contains("books.db/x.db"));
    // The default is the user's own, here the test's.
    let state = books.path("state");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    command.args(["keys", "list"]).env("XDG_STATE_HOME", &state).env_remove("FARTHING_LEDGER");
    let said = text(&command.output().unwrap().stderr);
    assert!(said.contains(&format!("{state}/farthing/ledger.db: there is no ledger")), "{said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    let output =
        command.args(["keys", "create", "anna"]).env("FARTHING_LEDGER", books.path("by-env.db")).output().unwrap();
    assert!(output.status.success() && Path::new(&books.path("by-env.db")).exists());
}

#[test]
fn passwords_of_addresses_are_not_printed() {
    for address in [
        "postgres://anna:hunter2@127.0.0.1:1/books",
        "postgres://127.0.0.1:1/books?password=hunter2",
        "postgres://anna:hunter2@127.0.0.1:99999999/books",
        "postgres://anna:hunter2@/books?host=/nowhere",
        "postgres:anna:hunter2@127.0.0.1/books",
        "mysql://anna:hunter2@127.0.0.1/books?password=hunter2",
    ] {
        for args in [&["keys", "list"][..], &["keys", "create", "anna"], &["keys", "list", "--json"]] {
            let output = run_with(&[args, &["--ledger", address]].concat(), "");
            let said = text(&output.stderr);
            assert!(!output.status.success() && !said.is_empty() && output.stdout.is_empty(), "{address}");
            assert!(!said.contains("hunter2"), "{address}: {said}");
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    let help = command.args(["help", "keys"]).env("FARTHING_LEDGER", "postgres://anna:hunter2@h/d").output().unwrap();
    assert!(text(&help.stdout).contains("FARTHING_LEDGER") && !text(&help.stdout).contains("hunter2"));
}

#[test]
fn copies_are_ledgers_and_exports_have_no_secrets() {
    let books = Books::new("copies");
    let secret = secret(&books.prints(&["keys", "create", "anna", "--top-up", "3"]));
    let (copy, lines) = (books.path("copy.db"), books.path("ledger.jsonl"));
    assert!(books.says(&["ledger", "backup", &copy]).1.contains(&copy));
    assert!(books.fails(1, &["ledger", "backup", &copy]).contains("it exists; give a new file"));
    let away = books.path("away/copy.db");
    assert!(books.fails(1, &["ledger", "backup", &away]).contains("away/copy.db: there is no directory "));
    assert!(!Path::new(&books.path("away")).exists());
    assert_eq!(succeed(&["keys", "list", "--ledger", &copy], ""), books.prints(&["keys", "list"]));
    assert!(succeed(&["ledger", "check", "--ledger", &copy, "-q"], "").is_empty());

    let exported = books.prints(&["ledger", "export"]);
    assert_eq!(books.json(&["ledger", "export", &lines])["rows"], exported.lines().count());
    assert_eq!(std::fs::read_to_string(&lines).unwrap(), exported);
    let tables: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(tables.iter().any(|row| row["table"] == "entry" && row["amount"] == 3_000_000));
    assert!(!exported.contains(&secret) && !exported.contains("\"hash\"") && !exported.contains("\"salt\""));
    assert!(books.fails(1, &["ledger", "export", &lines]).contains("it exists; give a new file"));
    assert!(books.fails(1, &["ledger", "export", &books.path("none/x")]).contains("none/x"));
}

/// A command as another user runs it who may read only; a test that is the superuser's may write everything itself.
#[cfg(unix)]
fn reads(books: &Books, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let program = books.scratch.0.join("farthing");
    if !program.exists() {
        let built = env!("CARGO_BIN_EXE_farthing");
        std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.args(books.args(args)).current_dir("/").env_remove("FARTHING_LEDGER");
    if rustix::process::geteuid().is_root() {
        command.uid(65534);
    }
    command.output().unwrap()
}

/// A copy on media that cannot be written is listed and checked, and a change of it is refused in plain words.
#[cfg(unix)]
#[test]
fn a_ledger_that_cannot_be_written_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let books = Books::new("read-only");
    books.prints(&["keys", "create", "anna", "--top-up", "3"]);
    let listed = books.prints(&["keys", "list"]);
    let folder = books.scratch.0.clone();
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    // The program is there before the directory is closed.
    reads(&books, &["--version"]);
    for (file_mode, why) in [(0o444, "Permission denied"), (0o666, "must be writable for this user")] {
        set(Path::new(&books.file), file_mode);
        set(&folder, 0o555);
        let outcome = [
            (&["keys", "list"][..], listed.as_str()),
            (&["ledger", "check"], ""),
            (&["usage", "--json"], "{"),
            (&["ledger", "export"], "{"),
        ]
        .map(|(args, printed)| (reads(&books, args), printed));
        let changed = [&["keys", "revoke", "anna"][..], &["keys", "create", "bob"]].map(|args| reads(&books, args));
        let copied = reads(&books, &["ledger", "backup", &books.path("copy.db")]);
        set(&folder, 0o755);
        for (output, printed) in outcome {
            assert!(output.status.success() && text(&output.stdout).starts_with(printed), "{output:?}");
        }
        for output in changed {
            let said = text(&output.stderr);
            assert!(
                output.status.code() == Some(1) && said.contains("it can only be read here, and not changed"),
                "{said}"
            );
            assert!(said.contains(why), "{said}");
        }
        assert!(text(&copied.stderr).contains("copy.db.part: Permission denied"), "{copied:?}");
        let names = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(names, 2, "the ledger and the program");
    }
}

/// A disk that is full is called that.
#[test]
fn a_full_disk_is_called_full() {
    let books = Books::new("full-disk");
    books.prints(&["accounts", "create", "anna"]);
    // No file of more than a few blocks: not even the index of the log. Reading needs none.
    let limited = |blocks: &str, args: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_farthing")]).args(books.args(args)).output().unwrap()
    };
    let output = limited("8", &["accounts", "list"]);
    assert!(output.status.success() && text(&output.stdout).contains("anna"), "{output:?}");
    let output = limited("8", &["accounts", "top-up", "anna", "1"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("the disk is full or cannot be written"), "{said}");
    assert_eq!(books.json(&["accounts", "show", "anna"])["account"]["balance"], 0);
}

/// Where nothing more can be written, no file is half there, and a secret that is lost is said to be.
#[test]
fn a_full_disk_leaves_no_half_file() {
    let books = Books::new("full");
    books.serve(async |ledger: Ledger, _| {
        ledger.create_account("anna", true).await.unwrap();
        for _ in 0..200 {
            ledger.credit("anna", EntryKind::TopUp, Money(1), &"x".repeat(500)).await.unwrap();
        }
        ledger.close().await;
    });
    let target = books.path("ledger.jsonl");
    // Half of the export. A write beyond the limit is an error where the signal is ignored.
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_farthing")]).args(books.args(&["ledger", "export", &target]));
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.to_lowercase().contains("too large"), "{said}");
    let names: Vec<String> =
        std::fs::read_dir(&books.scratch.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("books.db")), "{names:?}");

    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        command.args(books.args(args)).stdout(full()).output().unwrap()
    };
    let output = run(&["keys", "create", "laptop", "--account", "anna"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("is lost: `farthing keys rotate key_"), "{said}");
    assert_eq!(run(&["ledger", "export"]).status.code(), Some(1));
}

#[test]
fn a_check_finds_what_was_changed_behind_its_back() {
    let books = Books::new("tampered");
    books.prints(&["accounts", "create", "anna"]);
    books.prints(&["accounts", "top-up", "anna", "7.654321", "--note", "invoice"]);
    let (printed, said) = books.says(&["ledger", "check"]);
    assert_eq!((printed.as_str(), said.as_str()), ("", "everything agrees\n"));
    // The entry's kind, and behind it the amount in three bytes.
    let mut bytes = std::fs::read(&books.file).unwrap();
    let entry = [&b"top_up"[..], &[0x74, 0xcb, 0xb1], b"invoice"].concat();
    let places: Vec<usize> = (0..bytes.len() - entry.len()).filter(|&at| bytes[at..].starts_with(&entry)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&at| bytes[at + 8] += 1);
    let copy = books.path("tampered.db");
    std::fs::write(&copy, bytes).unwrap();
    let output = run_with(&["ledger", "check", "--ledger", &copy], "");
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(printed.contains("the balance of account acc_") && printed.lines().count() == 1, "{printed}");
    assert!(said.starts_with("farthing: 1 disagreement in the ledger; "), "{said}");
    let output = run_with(&["ledger", "check", "--ledger", &copy, "--json"], "");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), found["findings"].as_array().unwrap().len()), (Some(1), 1));
}
