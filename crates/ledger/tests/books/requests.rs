//! Requests: reserved, noted, settled; limits, budgets and balances that hold whatever comes at once.

use std::future::poll_fn;

use farthing_ledger::{Budget, EntryKind, GroupBy, Limits, Money, Noted, Period, Price, Refusal, Tokens, UsageFilter};

use crate::fixture::{Fixture, NOON, PRICE, demand, over_both};

fn answer(output: u64) -> Tokens {
    Tokens { miss: 100, output, ..Tokens::default() }
}

#[test]
fn a_request_reserves_its_worst_case_and_pays_what_it_took() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        // 100 tokens of prompt and 50 of answer cost 200 at most.
        let (key, _) = books.key("anna", 250, Limits::default()).await;
        books.ledger.credit("anna", EntryKind::Grant, Money(50), "").await.unwrap();
        let first = meter.reserve(demand("first", &key, 100, 50)).await.unwrap().unwrap();
        assert_eq!(
            (first.reservation().output, books.ledger.account("anna").await.unwrap().reserved),
            (50, Money(200))
        );
        let refused = meter.reserve(demand("second", &key, 100, 50)).await.unwrap().unwrap_err();
        assert_eq!(refused, Refusal::Balance { left: Money(100), needed: Money(200), currency: "CNY".into() });
        assert!(refused.to_string().contains("0.0001 CNY left"), "{refused}");
        // 60 of the prompt were cached: 6 + 40 + 2 * 30, of granted money first.
        let tokens = Tokens { hit: 60, miss: 40, output: 30, reasoning: 10 };
        assert_eq!(first.settle(tokens, "done").await, Some(Money(106)));
        let account = books.ledger.account("anna").await.unwrap();
        assert_eq!((account.granted, account.topped_up, account.reserved), (Money(0), Money(194), Money(0)));
        let all = UsageFilter { until: NOON + 1, ..UsageFilter::default() };
        let rows = books.ledger.requests(&all, 10).await.unwrap();
        assert_eq!(
            (rows.len(), rows[0].tokens, rows[0].cost, rows[0].status.as_str()),
            (1, tokens, Money(106), "done")
        );
        for by in [GroupBy::Key, GroupBy::Account, GroupBy::Model, GroupBy::Day, GroupBy::Hour] {
            let sums = books.ledger.usage(&all, by).await.unwrap();
            assert_eq!(
                (sums.len(), sums[0].requests, sums[0].tokens, sums[0].cost),
                (1, 1, tokens, Money(106)),
                "{by:?}"
            );
        }
        assert_eq!(books.ledger.usage(&all, GroupBy::Day).await.unwrap()[0].group, (NOON - 43_200_000).to_string());
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn an_answer_without_a_length_is_capped_to_what_is_left() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let capped = async |name: &str, micros: i64, limits: Limits, choices: u64| {
            let (key, _) = books.key(name, micros, limits).await;
            let demand = farthing_ledger::Demand { named: false, choices, ..demand(name, &key, 100, 4096) };
            meter.reserve(demand).await.unwrap().map(|metered| metered.reservation().output)
        };
        // Of the balance, of money, of tokens, of several choices; nothing holds it back.
        assert_eq!(capped("balance", 301, Limits::default(), 1).await, Ok(100));
        let money = Budget { month: Some(Money(302)), ..Budget::default() };
        assert_eq!(capped("money", 0, Limits { money, ..Limits::default() }, 1).await, Ok(101));
        let tokens = Budget { total: Some(350), ..Budget::default() };
        assert_eq!(capped("tokens", 0, Limits { tokens, ..Limits::default() }, 1).await, Ok(250));
        assert_eq!(capped("choices", 0, Limits { tokens, ..Limits::default() }, 4).await, Ok(62));
        assert_eq!(capped("free", 0, Limits::default(), 1).await, Ok(4096));
        // Not for one token more than the prompt.
        assert_eq!(
            capped("spent", 101, Limits::default(), 1).await,
            Err(Refusal::Balance { left: Money(101), needed: Money(102), currency: "CNY".into() })
        );
        let tokens = Budget { day: Some(100), ..Budget::default() };
        let spent = capped("day", 0, Limits { tokens, ..Limits::default() }, 1).await;
        assert_eq!(
            spent,
            Err(Refusal::TokenBudget {
                period: Period::Day,
                limit: 100,
                left: 100,
                needed: 101,
                wait_ms: Some(43_200_000)
            })
        );
    });
}

#[test]
fn no_budget_is_overrun_by_requests_that_come_at_once_on_three_servers() {
    over_both(async |books: Fixture| {
        let money = Budget { day: Some(Money(2_000)), ..Budget::default() };
        let (key, _) = books.key("anna", 1_000_000, Limits { money, ..Limits::default() }).await;
        let mut meters = Vec::new();
        for server in ["one", "two", "three"] {
            meters.push(books.meter(server).await);
        }
        // Each may cost 200: ten fit.
        let tries = (0..60).map(|n| {
            let (meter, demand) = (meters[n % 3].clone(), demand(&format!("request {n}"), &key, 100, 50));
            tokio::spawn(async move { meter.reserve(demand).await.unwrap() })
        });
        let mut served = Vec::new();
        for each in tries.collect::<Vec<_>>() {
            match each.await.unwrap() {
                Ok(metered) => served.push(metered),
                Err(refusal) => assert!(
                    matches!(refusal, Refusal::MoneyBudget { period: Period::Day, left: Money(0..200), .. }),
                    "{refusal}"
                ),
            }
        }
        assert_eq!((served.len(), books.ledger.in_flight().await.unwrap()), (10, 10));
        for metered in served {
            assert_eq!(metered.settle(answer(50), "done").await, Some(Money(200)));
        }
        let refusal = meters[0].reserve(demand("more", &key, 1, 1)).await.unwrap().unwrap_err();
        assert!(matches!(refusal, Refusal::MoneyBudget { wait_ms: Some(43_200_000), .. }), "{refusal}");
        assert_eq!(
            refusal.to_string(),
            "today's budget of this key has 0.00 of 0.002 CNY left, and the request may cost 0.000003; \
             send a smaller max_tokens, or wait until 00:00 UTC, when it is renewed"
        );
        // The next day.
        books.pass(43_200_000);
        assert!(meters[0].reserve(demand("tomorrow", &key, 1, 1)).await.unwrap().is_ok());
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(998_000));
    });
}

#[test]
fn budgets_of_days_months_and_all_time() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let tokens = Budget { day: Some(100), month: Some(250), total: Some(400) };
        let (key, _) = books.key("anna", 0, Limits { tokens, ..Limits::default() }).await;
        let mut count = 0;
        let mut try_one = async |size: u64| {
            count += 1;
            let metered = meter.reserve(demand(&format!("{count}"), &key, size, 0)).await.unwrap()?;
            metered.settle(Tokens { miss: size, ..Tokens::default() }, "done").await;
            Ok::<(), Refusal>(())
        };
        let refused = |outcome: Result<(), Refusal>| match outcome.unwrap_err() {
            Refusal::TokenBudget { period, left, .. } => (period, left),
            other => panic!("{other}"),
        };
        try_one(100).await.unwrap();
        assert_eq!(refused(try_one(1).await), (Period::Day, 0));
        // Monday, 30 November: the month has 150 left.
        books.pass(86_400_000);
        try_one(90).await.unwrap();
        assert_eq!(refused(try_one(11).await), (Period::Day, 10));
        // Tuesday is December.
        books.pass(86_400_000);
        try_one(100).await.unwrap();
        books.pass(86_400_000);
        try_one(90).await.unwrap();
        books.pass(86_400_000);
        assert_eq!(refused(try_one(61).await), (Period::Month, 60));
        assert_eq!(refused(try_one(21).await), (Period::Total, 20));
        try_one(20).await.unwrap();
        assert_eq!(books.ledger.key("anna").await.unwrap().total_tokens, 400);
        let month = |_| Ok(Limits { tokens: Budget { month: Some(250), ..Budget::default() }, ..Limits::default() });
        books.ledger.limit_key("anna", month, None).await.unwrap();
        assert_eq!(refused(try_one(41).await), (Period::Month, 40));
    });
}

#[test]
fn rates_fill_up_evenly() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let limits = Limits {
            requests_per_minute: Some(6),
            tokens_per_minute: Some(600),
            concurrency: Some(7),
            ..Limits::default()
        };
        let (key, _) = books.key("anna", 0, limits).await;
        let mut flying = Vec::new();
        for n in 0..6 {
            let metered = meter.reserve(demand(&format!("{n}"), &key, 50, 50)).await.unwrap().unwrap();
            let allowance = metered.reservation().allowance;
            let (requests, tokens) = (allowance.requests.unwrap(), allowance.tokens.unwrap());
            assert_eq!((requests.limit, requests.remaining, requests.reset_ms), (6, 5 - n, 10_000 * (n + 1)));
            assert_eq!((tokens.limit, tokens.remaining, tokens.reset_ms), (600, 550 - 50 * n, 5_000 * (n + 1)));
            flying.push(metered);
        }
        let refused = async |request: &str, prompt: u64| {
            meter.reserve(demand(request, &key, prompt, 1)).await.unwrap().unwrap_err()
        };
        assert_eq!(refused("a", 1).await, Refusal::Requests { limit: 6, wait_ms: 10_000 });
        // After ten seconds there is one request, and 300 + 100 tokens.
        books.pass(10_000);
        assert_eq!(refused("b", 401).await, Refusal::Tokens { limit: 600, wait_ms: 100 });
        assert_eq!(refused("c", 601).await, Refusal::Prompt { prompt: 601, limit: 600 });
        flying.push(meter.reserve(demand("d", &key, 400, 1)).await.unwrap().unwrap());
        books.pass(60_000);
        assert_eq!(refused("e", 1).await, Refusal::Concurrency { limit: 7 });
        // Answers count when they end, even into debt: 7 of 200.
        for metered in flying {
            metered.settle(Tokens { miss: 50, output: 200, ..Tokens::default() }, "done").await;
        }
        let Refusal::Tokens { wait_ms, .. } = refused("f", 1).await else { panic!("tokens are owed") };
        assert!((60_000..=140_100).contains(&wait_ms), "{wait_ms}");
        books.pass(i64::try_from(wait_ms).unwrap() - 1);
        assert_eq!(refused("g", 1).await, Refusal::Tokens { limit: 600, wait_ms: 1 });
        books.pass(1);
        assert!(meter.reserve(demand("h", &key, 1, 1)).await.unwrap().is_ok());
    });
}

#[test]
fn a_key_is_for_its_models_and_endpoints_and_an_admins_for_none() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let limits = Limits {
            models: vec!["pocket".into(), "lite".into()],
            endpoints: vec!["/v1/embeddings".into()],
            ..Limits::default()
        };
        let (key, _) = books.key("anna", 0, limits).await;
        let refused = async |endpoint: &str, model: &str| {
            let demand =
                farthing_ledger::Demand { endpoint: endpoint.into(), model: model.into(), ..demand("r", &key, 1, 0) };
            meter.reserve(demand).await.unwrap().map(|_| ()).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(
            refused("/v1/embeddings", "other").await.unwrap_err(),
            "this key is not for the model \"other\"; it is for pocket, lite"
        );
        assert_eq!(
            refused("/v1/messages", "lite").await.unwrap_err(),
            "this key is not for /v1/messages; it is for /v1/embeddings"
        );
        assert_eq!(refused("/v1/embeddings", "lite").await, Ok(()));
        let admin =
            farthing_ledger::NewKey { name: "root".into(), account: "anna".into(), admin: true, ..Default::default() };
        let (admin, _) = books.ledger.create_key(&admin).await.unwrap();
        assert_eq!(meter.reserve(demand("s", &admin, 1, 0)).await.unwrap().unwrap_err(), Refusal::Key);
        books.ledger.revoke_key("anna").await.unwrap();
        assert_eq!(meter.reserve(demand("t", &key, 1, 0)).await.unwrap().unwrap_err(), Refusal::Key);
        // Revoked after its key was looked at, deleted before it was.
        books.ledger.delete_account("anna").await.unwrap();
        assert_eq!(meter.reserve(demand("u", &key, 1, 0)).await.unwrap().unwrap_err(), Refusal::Key);
    });
}

#[test]
fn a_request_that_is_dropped_ends_with_what_was_noted() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        drop(meter.reserve(demand("nothing", &key, 100, 50)).await.unwrap().unwrap());
        let mut metered = meter.reserve(demand("some", &key, 100, 50)).await.unwrap().unwrap();
        assert_eq!(metered.note(answer(7)).await, Noted::Written);
        drop(metered);
        // Whoever asked left before the answer.
        let (other, late) = (meter.clone(), demand("late", &key, 100, 50));
        let task = tokio::spawn(async move { other.reserve(late).await });
        tokio::task::yield_now().await;
        task.abort();
        meter.finish().await;
        assert_eq!(books.ledger.in_flight().await.unwrap(), 0);
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 114));
    });
}

#[test]
fn a_request_without_a_price_is_counted_and_free() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let (key, _) = books.key("anna", 0, Limits::default()).await;
        let free = farthing_ledger::Demand { price: Price::FREE, ..demand("free", &key, 100, 50) };
        let metered = meter.reserve(free).await.unwrap().unwrap();
        assert_eq!(metered.settle(answer(50), "done").await, Some(Money::ZERO));
        // Metered only: a price makes no debt.
        let metered = meter.reserve(demand("priced", &key, 100, 50)).await.unwrap().unwrap();
        assert_eq!(metered.settle(answer(50), "done").await, Some(PRICE.cost(&answer(50))));
        let account = books.ledger.account("anna").await.unwrap();
        assert_eq!((account.balance(), account.prepaid), (Money::ZERO, false));
        assert_eq!(books.ledger.key("anna").await.unwrap().total_cost, Money(200));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn progress_is_noted_without_waiting_for_the_books() {
    over_both(async |books: Fixture| {
        let meter = books.meter("one").await;
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let mut metered = meter.reserve(demand("stream", &key, 100, 50)).await.unwrap().unwrap();
        let noted = async |metered: &mut farthing_ledger::Metered| poll_fn(|task| metered.poll_noted(task)).await;
        assert_eq!(noted(&mut metered).await, Noted::Written, "nothing is on its way");
        metered.progress(answer(3), 16 + 100);
        assert_eq!(metered.unnoted(), 103, "too few for a note");
        metered.progress(answer(16), 16 + 100);
        // A second one waits for the first, unless that is in the books already.
        metered.progress(answer(20), 1);
        assert_eq!(noted(&mut metered).await, Noted::Written);
        assert!([0, 4].contains(&metered.unnoted()), "{}", metered.unnoted());
        metered.progress(answer(20), 1);
        assert_eq!((noted(&mut metered).await, metered.unnoted()), (Noted::Written, 0));
        books.tamper("DELETE FROM reservation").await;
        metered.progress(answer(21), 1);
        assert_eq!((noted(&mut metered).await, noted(&mut metered).await), (Noted::Gone, Noted::Gone));
        assert_eq!(metered.settle(answer(21), "done").await, None);
    });
}
