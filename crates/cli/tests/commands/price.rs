//! What tokens cost here, beside others' prices, and the price sheet for the server.

use ::ledger::PriceSheet;
use serde_json::Value;

use super::*;

/// A short measurement of the bundled model.
const SHORT: [&str; 8] = ["--prompt", "64", "--decode", "2", "--sequences", "1,2", "--repetitions", "1"];

fn json(args: &[&str]) -> Value {
    let model = bundled();
    let given = [&["price", model.to_str().unwrap(), "-q", "--json", "--threads=1"], &SHORT[..], args].concat();
    serde_json::from_str(&succeed(&given, "")).unwrap()
}

fn close(a: &Value, b: f64) -> bool {
    (a.as_f64().unwrap() / b - 1.0).abs() < 1e-9
}

#[test]
fn costs_follow_from_what_was_measured_and_given() {
    let report = json(&["--watts", "40", "--idle-watts", "10", "--electricity", "0.5", "--utilisation", "0.25"]);
    let rate = |kind: &str| report["tokens_per_second"][kind]["value"].as_f64().unwrap();
    for kind in ["hit", "miss", "output"] {
        assert_eq!(report["tokens_per_second"][kind]["from"], "measured");
        assert_eq!(report["watts"][kind], serde_json::json!({"value": 40.0, "from": "given"}));
        // A kilowatt-hour is 3.6 million joules; at a quarter three seconds at 10 W stand beside each at 40 W.
        let second = 1e6 / rate(kind) * 0.5 / 3.6e6;
        assert!(close(&report["cost_per_million"]["full_load"][kind]["value"], second * 40.0), "{report:#}");
        assert!(close(&report["cost_per_million"]["at_utilisation"][kind]["value"], second * 70.0), "{report:#}");
        assert_eq!(report["cost_per_million"]["full_load"][kind]["from"], "computed");
        // Rounded up to a micro-unit.
        let price = report["price_per_million"][kind]["value"].as_f64().unwrap();
        assert!(price >= second * 70.0 && price < second * 70.0 + 1.1e-6, "{price} for {}", second * 70.0);
    }
    // Found prompts take less than computed ones, and two answers at once give more tokens than one.
    assert!(rate("hit") > rate("miss"), "{report:#}");
    assert_eq!(report["answers"].as_array().unwrap().len(), 2);
    assert_eq!(report["prompt_tokens"], serde_json::json!({"value": 64, "from": "given"}));
    assert_eq!((&report["machine_hour"], &report["purchase"]), (&Value::Null, &Value::Null));
    let beside = &report["against"][0];
    assert_eq!((&beside["model"], &beside["since"]), (&"deepseek-flash".into(), &"2026-09-10".into()));
    let shares = &report["mix"]["shares"];
    let mixed: f64 = ["hit", "miss", "output"]
        .iter()
        .map(|kind| shares[kind].as_f64().unwrap() * beside["price_per_million"][kind].as_f64().unwrap())
        .sum();
    assert!(close(&beside["mixed"]["price"], mixed), "{beside:#}");
    assert_eq!(report["mix"]["from"], "assumed");
}

#[test]
fn a_machine_is_rented_or_bought() {
    let rent =
        json(&["--machine-hour", "36", "--utilisation", "1", "--mix", "0,1,0", "--against", "deepseek-v2@2024-06-01"]);
    assert_eq!(rent["electricity_per_kwh"]["value"], 0.0);
    let miss = rent["tokens_per_second"]["miss"]["value"].as_f64().unwrap();
    assert!(close(&rent["cost_per_million"]["full_load"]["miss"]["value"], 1e6 / miss * 0.01), "{rent:#}");
    // A cent a second is no match for 0.14 a million here.
    let mixed = &rent["against"][0]["mixed"];
    assert_eq!((&mixed["price"], &mixed["break_even_utilisation"]), (&0.14.into(), &Value::Null), "{mixed}");
    let bought = json(&["--purchase", "8765.82", "--years", "2", "--electricity", "0", "--latency", "0.0001"]);
    assert!(close(&bought["machine_hour"]["value"], 0.5), "{bought:#}");
    assert_eq!(bought["years"], serde_json::json!({"value": 2.0, "from": "given"}));
    assert!(bought["against"][0]["mixed"]["payback_months"].as_f64().unwrap() > 0.0);
    // No number of answers keeps to that latency: one is measured, and it is priced.
    assert_eq!((&bought["within_latency"], bought["answers"].as_array().unwrap().len()), (&false.into(), 1));
}

#[test]
fn a_sheet_is_written_once_and_read_by_the_server() {
    let scratch = Scratch::new("price");
    let file = scratch.0.join("prices.toml");
    let sheet = file.to_str().unwrap();
    let model = bundled();
    let options = [
        "--machine-hour",
        "2",
        "--margin",
        "1.5",
        "--off-peak",
        "16:30-00:30=0.5",
        "--batch",
        "0.5",
        "--currency",
        "CNY",
    ];
    let args =
        [&["price", model.to_str().unwrap(), "--threads=1"], &SHORT[..], &options[..], &["--out", sheet]].concat();
    let output = run_with(&args, "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (said, printed) = (text(&output.stderr), text(&output.stdout));
    assert!(said.contains("wrote ") && printed.contains("CNY a million tokens"), "{said}{printed}");
    let read = PriceSheet::read(&file).unwrap();
    let (noon, night) = (12 * 3_600_000, 17 * 3_600_000);
    let price = read.price("seed-5.7m", noon, false).unwrap();
    assert!(read.currency == "CNY" && price.output > 0 && read.price("another", noon, false).is_none());
    let half = |micros: i64| (micros as f64 * 0.5).round() as i64;
    assert_eq!(read.price("seed-5.7m", night, false).unwrap().output, half(price.output));
    assert_eq!(read.price("seed-5.7m", noon, true).unwrap().miss, half(price.miss));
    // It is not replaced by accident, which is told before anything is measured.
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(before.starts_with("# Written by `farthing price`."), "{before}");
    assert!(fail(&args).contains("--force"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    succeed(&[&args[..], &["--force", "-q", "--name", "pocket"]].concat(), "");
    assert!(PriceSheet::read(&file).unwrap().price("pocket", noon, false).is_some());
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1, "temporary files are left");
}

#[test]
fn a_stand_in_runs_without_a_weight() {
    let scratch = Scratch::new("price-estimate");
    let model = scratch.model();
    // Weights that are no numbers would make a run fail.
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0xff);
    std::fs::write(&file, &bytes).unwrap();
    let path = model.to_str().unwrap();
    let args = |more: &'static str| [&["price", path, "-q", "--json", "--threads=1"], &SHORT[..], &[more]].concat();
    let report: Value = serde_json::from_str(&succeed(&args("--estimate"), "")).unwrap();
    assert_eq!(
        (&report["estimated"], &report["tokens_per_second"]["miss"]["from"]),
        (&true.into(), &"estimated".into())
    );
    assert!(fail(&args("--margin=2")).contains("holds NaN"));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let model = bundled();
    let path = model.to_str().unwrap();
    for (args, said) in [
        (&["--machine-hour", "1", "--purchase", "2"][..], "cannot be used with"),
        (&["--years", "2"], "--purchase"),
        (&["--watts", "-5"], "from 0 to 1000000000"),
        (&["--electricity", "nan"], "from 0 to 1000000000"),
        (&["--purchase", "1e300"], "from 0 to 1000000000"),
        (&["--utilisation", "30"], "at most 1"),
        (&["--watts", "10", "--idle-watts", "20"], "--idle-watts 20"),
        (&["--currency", "dollars"], "dollars"),
        (&["--currency", "GBP"], "--electricity"),
        (&["--off-peak", "25:00-26:00=0.5"], "25:00"),
        (&["--off-peak", "01:00-04:00=2"], "--peak"),
        (&["--peak", "01:00-04:00"], "16:30-00:30=0.5"),
        (&["--against", "gpt"], "knows deepseek-chat"),
        (&["--force"], "--out"),
        (&["--prompt", "4000"], "--prompt"),
        (&["--repetitions", "0"], "at least 1"),
        (&["--mix", "0,0,0"], "342,266,168"),
    ] {
        let output = run_with(&[&["price", path, "-q"], args].concat(), "");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.split_whitespace().collect::<Vec<_>>().join(" ").contains(said), "{args:?}: {stderr}");
    }
    assert!(fail(&["price", path, "-q", "--price-list", "nowhere.toml", "--against", "x"]).contains("nowhere.toml"));
    let out = ["price", path, "-q", "--out", "/nowhere/prices.toml", "--threads=1"];
    assert!(fail(&[&out[..], &SHORT[..]].concat()).contains("give another --out"));
    // A device would be replaced by a file; a directory is none either.
    for place in ["/dev/full", "/"] {
        let full = ["price", path, "-q", "--out", place, "--force", "--threads=1"];
        assert!(fail(&[&full[..], &SHORT[..]].concat()).contains("no plain file"), "{place}");
    }
}

/// No file may grow: what a full disk does to a measurement that needs one.
#[test]
fn a_full_disk_is_told() {
    let model = bundled();
    let command = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
    let output = Command::new("sh")
        .args([
            "-c",
            command,
            "sh",
            env!("CARGO_BIN_EXE_farthing"),
            "price",
            model.to_str().unwrap(),
            "-q",
            "--threads=1",
        ])
        .args(SHORT)
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("room on that disk") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_price_list_of_ones_own_is_read() {
    let scratch = Scratch::new("price-list");
    let list = scratch.0.join("list.toml");
    std::fs::write(&list, "[[prices]]\nmodels = [\"other\"]\nfrom = \"2026-01\"\nUSD = { miss = 3, output = 5 }\n")
        .unwrap();
    let report = json(&["--price-list", list.to_str().unwrap(), "--against", "other", "--mix", "1,0,1"]);
    assert_eq!(report["against"][0]["price_per_million"], serde_json::json!({"hit": 3.0, "miss": 3.0, "output": 5.0}));
    assert!(close(&report["against"][0]["mixed"]["price"], 4.0));
}
