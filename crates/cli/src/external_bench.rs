//! Another program's benchmark, run between ours: its command, and the figures in what it prints.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Failure;
use crate::work::{Work, median};

/// A spread of rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Least.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Most.
    pub max: f64,
}

impl Rates {
    /// Of at least one rate.
    pub fn of(rates: &[f64]) -> Rates {
        let (min, max) = rates.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        Rates { min, median: median(rates), max }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        json!({"min": self.min, "median": self.median, "max": self.max})
    }
}

/// A command and what it gave so far.
pub struct ExternalBench {
    command: String,
    found: Vec<(Work, f64)>,
}

impl ExternalBench {
    /// A command for the shell.
    pub fn new(command: &str) -> ExternalBench {
        ExternalBench { command: command.to_string(), found: Vec::new() }
    }

    /// Run it once.
    ///
    /// # Errors
    /// A command that fails, or prints no figure.
    pub fn run(&mut self) -> Result<(), Failure> {
        let output = Command::new("sh").args(["-c", &self.command]).stdin(Stdio::null()).output()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + "\n" + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default().trim().to_string();
            return Err(Failure::failed(format!("--against: {:?} ended with {}: {last}", self.command, output.status)));
        }
        let found = figures(&text);
        if found.is_empty() {
            return Err(Failure::failed(format!(
                "--against: {:?} printed no figure that is known; llama-bench wants -o json",
                self.command
            )));
        }
        self.found.extend(found);
        Ok(())
    }

    /// Its rates for a kind of work.
    pub fn rates(&self, work: Work) -> impl Iterator<Item = f64> {
        self.found.iter().filter(move |(w, _)| *w == work).map(|(_, rate)| *rate)
    }
}

/// Tokens per second in what llama-bench or llama-batched-bench printed.
pub fn figures(text: &str) -> Vec<(Work, f64)> {
    let mut found = Vec::new();
    // One JSON array, among other lines.
    if let (Some(from), Some(to)) = (text.find('['), text.rfind(']'))
        && let Some(Ok(Value::Array(tests))) = text.get(from..=to).map(serde_json::from_str::<Value>)
    {
        tests.iter().for_each(|t| of_bench(t, &mut found));
    }
    for line in text.lines().map(str::trim) {
        if line.starts_with('{') && line.ends_with('}') {
            if let Ok(object) = serde_json::from_str::<Value>(line) {
                of_bench(&object, &mut found);
                let rate = object["speed_tg"].as_f64();
                if let (Some(n), Some(rate)) = (object["pl"].as_u64(), rate) {
                    found.push((Work::Together(n as usize), rate));
                }
            }
        } else if line.starts_with('|') {
            let cells: Vec<f64> = line.split('|').filter_map(|c| c.trim().parse().ok()).collect();
            // PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, T, S
            if cells.len() == 10 {
                found.push((Work::Together(cells[2] as usize), cells[7]));
            }
        }
    }
    found.retain(|(_, rate)| rate.is_finite() && *rate > 0.0);
    found
}

/// One test of llama-bench.
fn of_bench(test: &Value, found: &mut Vec<(Work, f64)>) {
    let number = |key: &str| test[key].as_u64().unwrap_or(0) as usize;
    let (Some(_), prompt, generated, depth) =
        (test["n_gen"].as_u64(), number("n_prompt"), number("n_gen"), number("n_depth"))
    else {
        return;
    };
    let work = match (prompt, generated, depth) {
        (n, 0, 0) if n > 0 => Work::Prefill(n),
        (0, n, depth) if n > 0 => Work::Decode(depth),
        // Generation after a prompt that is not counted.
        (prompt, n, 0) if n > 0 && test["test"].as_str().is_some_and(|t| t.contains('@')) => Work::Decode(prompt),
        _ => return,
    };
    match test["samples_ts"].as_array() {
        Some(samples) => found.extend(samples.iter().filter_map(Value::as_f64).map(|rate| (work, rate))),
        None => found.extend(test["avg_ts"].as_f64().map(|rate| (work, rate))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_both_programs() {
        let bench = r#"warming up
[ {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 40.0, "samples_ts": [ 39.0, 41.0 ]},
  {"n_prompt": 0, "n_gen": 32, "n_depth": 4096, "avg_ts": 6.1},
  {"n_prompt": 4096, "n_gen": 64, "avg_ts": 7.5, "test": "tg64@pp4096"} ]
done"#;
        assert_eq!(
            figures(bench),
            [
                (Work::Prefill(512), 39.0),
                (Work::Prefill(512), 41.0),
                (Work::Decode(4096), 6.1),
                (Work::Decode(4096), 7.5)
            ]
        );
        let lines = r#"{"n_kv_max": 4096, "pp": 512, "tg": 16, "pl": 32, "speed_pp": 60.0, "speed_tg": 17.5}"#;
        assert_eq!(figures(lines), [(Work::Together(32), 17.5)]);
        let table = "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n\
                     |-------|--------|------|--------|----------|----------|----------|----------|----------|----------|\n\
                     |   512 |     16 |    4 |    576 |    7.000 |    73.14 |    2.000 |    32.00 |    9.000 |    64.00 |";
        assert_eq!(figures(table), [(Work::Together(4), 32.0)]);
        assert!(figures("nothing [here] {at} | all |").is_empty());
    }
}
