//! What was measured and what it costs: a table, a JSON object, and a price sheet with its remarks.

use std::path::Path;

use farthing::pace::{Repeated, seconds_per_token};
use ledger::cost::{Comparison, Figure, Kinds, Origin};
use serde_json::{Value, json};

use super::Paced;
use super::costs::{Costs, Paid, Rival};
use crate::Failure;
use crate::doctor::processor;
use crate::external_bench::Rates;
use crate::terminal::several;

/// A measurement with its costs.
pub struct Report<'a> {
    /// MODEL, as given.
    pub model: &'a str,
    /// Its id in the API.
    pub name: &'a str,
    /// What was measured.
    pub paced: &'a Paced,
    /// The costs.
    pub costs: &'a Costs,
    /// The prompt's length was given.
    pub prompt_given: bool,
}

/// An amount with at most four digits that count, and no exponent.
fn units(amount: f64) -> String {
    if amount == 0.0 || !amount.is_finite() {
        return amount.to_string();
    }
    let decimals = (3 - amount.abs().log10().floor() as i64).clamp(0, 12) as usize;
    let text = format!("{amount:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// A figure with its origin in brackets.
fn figure(figure: Figure, unit: &str) -> String {
    format!("{}{unit} ({})", units(figure.value), origin(figure.from))
}

fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Measured => "measured",
        Origin::Estimated => "estimated",
        Origin::Given => "given",
        Origin::Assumed => "assumed",
        Origin::Computed => "computed",
    }
}

fn given(is: bool) -> Origin {
    if is { Origin::Given } else { Origin::Assumed }
}

impl Report<'_> {
    fn origin(&self) -> Origin {
        self.costs.rates.miss.from
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut lines = self.speeds();
        lines.extend(self.machine());
        lines.extend(self.prices());
        self.costs.compared.iter().for_each(|(rival, compared)| lines.extend(self.beside(rival, compared)));
        lines.join("\n") + "\n"
    }

    fn speeds(&self) -> Vec<String> {
        let (wanted, measured) = (&self.paced.wanted, &self.paced.measured);
        let row = |name: &str, repeated: &Repeated, more: String| {
            let Rates { min, median, max } = Rates::of(&repeated.rates);
            format!("  {name:<30} {:>11} {:>11} {:>11}{more}", units(min), units(median), units(max))
        };
        let how = match self.paced.estimated {
            true => "estimated: the model's structure ran here with empty weights",
            false => "measured",
        };
        let mut lines = vec![
            format!(
                "{} on {}, {}, {}",
                self.model,
                processor(),
                several(self.paced.threads, "thread"),
                kernels::instruction_set()
            ),
            format!(
                "prompts of {} tokens ({}), answers of {} after them; {}, {how}",
                wanted.prompt,
                origin(given(self.prompt_given)),
                wanted.decoded,
                several(wanted.repetitions, "repetition")
            ),
            String::new(),
            format!("  {:<30} {:>11} {:>11} {:>11}", "tokens/s", "min", "median", "max"),
            row("prompt", &measured.prefill, String::new()),
            row("cached prompt, from disk", &measured.disk, String::new()),
            row("cached prompt, from memory", &measured.memory, String::new()),
        ];
        for (n, answers) in &measured.answers {
            let rate = answers.rate();
            let ms = 1e3 * seconds_per_token(*n, rate);
            let beyond = if ms > self.costs.latency_ms.value { ", beyond --latency" } else { "" };
            let more = format!("   {} ms a token, {} a million{beyond}", units(ms), units(self.costs.of_answers(rate)));
            lines.push(row(&format!("answers, {n} at once"), answers, more));
        }
        lines.push(match self.costs.sequences {
            (n, true) => format!(
                "\nanswers are priced at {n} at once, the fastest within {} a token",
                figure(self.costs.latency_ms, " ms")
            ),
            (n, false) => format!(
                "\nno number of answers at once keeps to {} a token: answers are priced at {n}",
                figure(self.costs.latency_ms, " ms")
            ),
        });
        lines
    }

    fn machine(&self) -> Vec<String> {
        let Costs { watts, idle_watts, electricity, hour, purchase, .. } = self.costs;
        let currency = &self.costs.currency;
        let mut lines = vec![match (hour, purchase) {
            (_, Some((price, years))) => {
                format!(
                    "machine      bought for {} {currency} (given), lasts {}",
                    units(*price),
                    figure(*years, " years")
                )
            }
            (Some(hour), None) => format!("machine      {} an hour", figure(*hour, &format!(" {currency}"))),
            (None, None) => {
                "machine      not counted: --machine-hour gives its rent, --purchase and --years its price".to_string()
            }
        }];
        let same = watts.hit.value == watts.miss.value && watts.miss.value == watts.output.value;
        let at_work = if same {
            figure(watts.output, " W")
        } else {
            let each = watts.map(|w| w.value);
            let from = origin(watts.output.from);
            format!(
                "{}, {}, {} W ({from}; cached, computed, answers)",
                units(each.hit),
                units(each.miss),
                units(each.output)
            )
        };
        lines.push(format!(
            "electricity  {} a kWh; {at_work} at work, {} without",
            figure(*electricity, &format!(" {currency}")),
            figure(*idle_watts, " W")
        ));
        lines
    }

    fn prices(&self) -> Vec<String> {
        let row = |name: &str, Kinds { hit, miss, output }: Kinds<f64>| {
            format!("  {name:<30} {:>11} {:>11} {:>11}", units(hit), units(miss), units(output))
        };
        let Costs { currency, full, used, sheet, utilisation, margin, .. } = self.costs;
        let sheet = Kinds { hit: sheet.hit, miss: sheet.miss, output: sheet.output }.map(|micros| micros as f64 / 1e6);
        let busy = units(utilisation.value * 100.0);
        vec![
            String::new(),
            format!(
                "  {:<30} {:>11} {:>11} {:>11}",
                format!("{currency} a million tokens"),
                "cached",
                "computed",
                "answers"
            ),
            row("cost at full load", *full),
            row(&format!("cost at work {busy} % of time"), *used),
            row(&format!("price, {} times that", units(*margin)), sheet),
            format!("  (utilisation {}; a mixed load costs the sum of its parts)", origin(utilisation.from)),
        ]
    }

    /// Somebody's price and what it means.
    fn beside(&self, rival: &Rival, c: &Comparison) -> Vec<String> {
        let Kinds { hit, miss, output } = rival.amounts;
        let hours = rival.price.hours.as_ref().map_or_else(String::new, |hours| format!(", {hours} UTC"));
        let (mix, from) = self.costs.mix;
        let percent = mix.map(|share| (share * 100.0).round());
        let mut lines = vec![
            String::new(),
            format!("  {:<30} {:>11} {:>11} {:>11}", rival.name, units(hit), units(miss), units(output)),
            format!(
                "  since {}{hours}{}",
                rival.price.from,
                rival.price.note.as_ref().map_or_else(String::new, |n| format!(": {n}"))
            ),
            format!(
                "  of {} % cached, {} % computed, {} % answers ({}): {} there, {} here at full load, {} times as much",
                percent.hit,
                percent.miss,
                percent.output,
                origin(from),
                units(c.price),
                units(c.cost_at_full_load),
                units(c.ratio_at_full_load)
            ),
            match c.break_even_utilisation {
                Some(u) => format!("  break-even: at work {} % of the time", units(u * 100.0)),
                None => "  break-even: none, it costs more here at full load too".to_string(),
            },
        ];
        if self.costs.purchase.is_some() {
            lines.push(match c.payback_months {
                Some(months) => {
                    format!("  the purchase is paid back after {} months at the utilisation above", units(months))
                }
                None => "  the purchase is never paid back: the electricity costs more".to_string(),
            });
        }
        lines
    }

    /// A JSON object.
    pub fn json(&self, out: Option<&Path>) -> Value {
        let from = self.origin();
        let rates = |repeated: &Repeated| {
            let Rates { min, median, max } = Rates::of(&repeated.rates);
            json!({"value": median, "from": from, "min": min, "max": max})
        };
        let (wanted, measured, costs) = (&self.paced.wanted, &self.paced.measured, self.costs);
        let answers = measured.answers.iter().map(|(n, answers)| {
            let ms = 1e3 * seconds_per_token(*n, answers.rate());
            json!({
                "sequences": n,
                "tokens_per_second": rates(answers),
                "ms_per_token": ms,
                "within_latency": ms <= costs.latency_ms.value,
                "cost_at_full_load": {"value": costs.of_answers(answers.rate()), "from": Origin::Computed},
            })
        });
        let computed = |kinds: Kinds<f64>| kinds.map(|value| Figure { value, from: Origin::Computed });
        let sheet = Kinds { hit: costs.sheet.hit, miss: costs.sheet.miss, output: costs.sheet.output };
        json!({
            "model": self.model,
            "name": self.name,
            "processor": processor(),
            "threads": self.paced.threads,
            "instruction_set": kernels::instruction_set(),
            "estimated": self.paced.estimated,
            "repetitions": wanted.repetitions,
            "prompt_tokens": {"value": wanted.prompt, "from": given(self.prompt_given)},
            "answer_tokens": wanted.decoded,
            "tokens_per_second": {
                "hit": rates(&measured.disk),
                "hit_from_memory": rates(&measured.memory),
                "miss": rates(&measured.prefill),
                "output": costs.rates.output,
            },
            "answers": answers.collect::<Vec<_>>(),
            "answers_at_once": costs.sequences.0,
            "latency_ms": costs.latency_ms,
            "within_latency": costs.sequences.1,
            "currency": costs.currency,
            "watts": costs.watts,
            "idle_watts": costs.idle_watts,
            "electricity_per_kwh": costs.electricity,
            "machine_hour": costs.hour,
            "purchase": costs.purchase.map(|(value, _)| Figure { value, from: Origin::Given }),
            "years": costs.purchase.map(|(_, years)| years),
            "utilisation": costs.utilisation,
            "cost_per_million": {"full_load": computed(costs.full), "at_utilisation": computed(costs.used)},
            "margin": costs.margin,
            "price_per_million": computed(sheet.map(|micros| micros as f64 / 1e6)),
            "sheet": out.map(|file| file.display().to_string()),
            "mix": {"shares": costs.mix.0, "from": costs.mix.1},
            "against": costs.compared.iter().map(|(rival, c)| json!({
                "model": rival.name,
                "since": rival.price.from,
                "hours": rival.price.hours,
                "note": rival.price.note,
                "price_per_million": rival.amounts,
                "mixed": c,
            })).collect::<Vec<_>>(),
        })
    }

    /// The text of the price sheet.
    pub fn sheet(&self, paid: &Paid) -> Result<String, Failure> {
        let costs = self.costs;
        let rates = costs.rates.map(|rate| units(rate.value));
        let remarks = vec![
            format!(
                "Written by `farthing price`. {} on {}, {}.",
                self.model,
                processor(),
                several(self.paced.threads, "thread")
            ),
            format!(
                "Tokens per second ({}): {} cached, {} computed, {} of answers, {} at once.",
                origin(self.origin()),
                rates.hit,
                rates.miss,
                rates.output,
                costs.sequences.0
            ),
            self.machine().join("; "),
            format!(
                "Prices are {} times the cost at work {} % of the time ({}), rounded up.",
                units(costs.margin),
                units(costs.utilisation.value * 100.0),
                origin(costs.utilisation.from)
            ),
        ];
        paid.sheet(self.name, costs.sheet, remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::units;

    #[test]
    fn amounts_have_four_digits_that_count() {
        let all = [0.0, 1234.5, 12345.6, 1.0, 0.012_345_6, 0.000_001_234_56, 99.999];
        assert_eq!(all.map(units), ["0", "1234", "12346", "1", "0.01235", "0.000001235", "100"]);
    }
}
