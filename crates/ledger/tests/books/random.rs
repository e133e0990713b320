//! Random lives of many requests against a model of the books in a few lines.

use std::collections::HashMap;

use farthing_ledger::{Budget, EntryKind, Limits, Metered, Money, Refusal, Tokens};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixture::{Fixture, PRICE, demand, over_both};

/// Steps of a life.
const STEPS: usize = 400;

#[test]
fn any_order_of_events_charges_what_was_delivered_and_overruns_nothing() {
    over_both(async |books: Fixture| {
        let mut random = StdRng::seed_from_u64(17);
        let mut meters = [books.meter("server 0").await, books.meter("server 1").await];
        let money = Budget { total: Some(Money(40_000)), ..Budget::default() };
        let mut keys = Vec::new();
        for name in ["anna", "bob"] {
            keys.push(books.key(name, 60_000, Limits { money, ..Limits::default() }).await.0);
        }
        // What the model of the books says: balance, spent, and requests in flight with what is noted.
        let mut balance = [60_000_i64; 2];
        let mut spent = [0_i64; 2];
        let mut flying: HashMap<String, (usize, usize, Metered, Tokens, i64)> = HashMap::new();
        for step in 0..STEPS {
            let names: Vec<String> = flying.keys().cloned().collect();
            let any = (!names.is_empty()).then(|| names[random.random_range(0..names.len())].clone());
            match (random.random_range(0..20), any) {
                (0..8, _) | (_, None) => {
                    let (who, server) = (random.random_range(0..2), random.random_range(0..meters.len()));
                    let (prompt, output) = (random.random_range(1..1000), random.random_range(1..1000));
                    let (name, cost) = (format!("request {step}"), PRICE.worst(prompt, output).0);
                    let reserved: i64 = flying.values().filter(|f| f.0 == who).map(|f| f.4).sum();
                    let fits = cost + reserved <= balance[who] && cost + reserved + spent[who] <= 40_000;
                    match meters[server].reserve(demand(&name, &keys[who], prompt, output)).await.unwrap() {
                        Ok(metered) => {
                            assert!(fits, "step {step}");
                            let tokens = Tokens { miss: prompt, ..Tokens::default() };
                            flying.insert(name, (who, server, metered, tokens, cost));
                        }
                        Err(Refusal::Balance { .. } | Refusal::MoneyBudget { .. }) => assert!(!fits, "step {step}"),
                        Err(other) => panic!("{other}"),
                    }
                }
                (8..13, Some(name)) => {
                    let (_, _, metered, tokens, cost) = flying.get_mut(&name).unwrap();
                    let room = (*cost as u64 - tokens.miss) / 2 - tokens.output;
                    tokens.output += random.random_range(0..=room.min(16));
                    metered.note(*tokens).await;
                }
                (13..18, Some(name)) => {
                    let (who, _, metered, tokens, _) = flying.remove(&name).unwrap();
                    let cost = PRICE.cost(&tokens).0;
                    assert_eq!(metered.settle(tokens, "done").await, Some(Money(cost)));
                    (balance[who], spent[who]) = (balance[who] - cost, spent[who] + cost);
                }
                (18, _) => {
                    let who = random.random_range(0..2);
                    books.ledger.credit(&keys[who].account, EntryKind::Grant, Money(1000), "").await.unwrap();
                    balance[who] += 1000;
                }
                _ => {
                    // A server is killed and comes back: what it had noted is charged, and what it had not begun to deliver is not.
                    let server = random.random_range(0..meters.len());
                    let dead = flying.extract_if(|_, f| f.1 == server).collect::<Vec<_>>();
                    let mut left = Vec::new();
                    for (_, (who, _, mut metered, tokens, _)) in dead {
                        metered.note(tokens).await;
                        let cost = PRICE.cost(&tokens).0;
                        (balance[who], spent[who]) = (balance[who] - cost, spent[who] + cost);
                        left.push(metered);
                    }
                    meters[server] = books.meter(&format!("server {server}")).await;
                }
            }
        }
        for (who, key) in keys.iter().enumerate() {
            let reserved: i64 = flying.values().filter(|f| f.0 == who).map(|f| f.4).sum();
            let account = books.ledger.account(&key.account).await.unwrap();
            assert_eq!((account.balance().0, account.reserved.0), (balance[who], reserved));
            assert_eq!(books.ledger.key(&key.id).await.unwrap().total_cost.0, spent[who]);
        }
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}
