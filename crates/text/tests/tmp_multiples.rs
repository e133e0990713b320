mod sampler;
use sampler::{Random, sample, text_of};
use serde_json::{Value, json};
use std::time::Instant;
use text::Tokenizer;
use text::grammar::{Constraint, Grammars};
const EOS: u32 = 1;
#[test]
fn experiment() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer, &[EOS], 2064).unwrap();
    for schema in [
        json!({"type": "integer", "multipleOf": 997}),
        json!({"type": "integer", "multipleOf": 9797}),
        json!({"type": "integer", "multipleOf": 997, "minimum": 0, "maximum": 1000000}),
        json!({"type": "integer", "multipleOf": 997, "minimum": 0, "maximum": 9007199254740991i64}),
        json!({"type": "integer", "multipleOf": 997, "minimum": -9007199254740991i64, "maximum": 9007199254740991i64}),
        json!({"type": "number", "multipleOf": 997, "minimum": -9007199254740991i64, "maximum": 9007199254740991i64}),
        json!({"type": "integer", "multipleOf": 500, "minimum": 3, "maximum": 1000000000000000i64}),
        json!({"type": "number", "multipleOf": 9.97, "minimum": 3, "maximum": 1000000000000i64}),
        json!({"type": "number", "multipleOf": 9.97}),
        json!({"type": "number", "multipleOf": 0.999, "minimum": 0.5, "maximum": 1000000}),
        json!({"type": "integer", "multipleOf": 9797, "minimum": 0, "maximum": 1000000}),
        json!({"type": "integer", "multipleOf": 9797, "minimum": 0, "maximum": 1000000000000000i64}),
        json!({"type": "integer", "multipleOf": 60000, "minimum": 0, "maximum": 10000000}),
        json!({"type": "integer", "allOf": [{"multipleOf": 97}, {"multipleOf": 101}]}),
        json!({"allOf": [{"type": "integer", "multipleOf": 97}, {"multipleOf": 101}], "minimum": 0, "maximum": 100000}),
        json!({"allOf": [{"multipleOf": 7}, {"multipleOf": 11}]}),
        json!({"type": "number", "multipleOf": 0.1, "minimum": 0.05, "maximum": 0.15}),
        json!({"type": "number", "multipleOf": 0.1, "exclusiveMinimum": 0.05, "maximum": 25.55}),
        json!({"type": "number", "multipleOf": 0.1, "minimum": -3, "maximum": 0.55}),
        json!({"type": "number", "multipleOf": 0.1, "minimum": 0.05}),
        json!({"type": "number", "allOf": [{"multipleOf": 0.1}, {"minimum": 0.05, "exclusiveMaximum": 0.15}]}),
        json!({"$ref": "#/$defs/a", "multipleOf": 101, "$defs": {"a": {"multipleOf": 97}}}),
        json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {"a": {"multipleOf": 97}, "b": {"multipleOf": 101}}}),
        json!({"anyOf": [{"multipleOf": 97}, {"multipleOf": 101}], "type": "integer"}),
    ] {
        let begin = Instant::now();
        let matcher = match grammars.compile(&Constraint::JsonSchema { schema: schema.clone(), strict: true }) {
            Ok(m) => m,
            Err(e) => {
                println!("{schema}: REFUSED {e} ({:?})", begin.elapsed());
                continue;
            }
        };
        let compiled = begin.elapsed();
        let (mut fine, mut wrong, mut open, mut errors) = (0, 0, 0, Vec::<String>::new());
        let mut seen = std::collections::BTreeSet::new();
        let mut slow = std::time::Duration::ZERO;
        for seed in 0..40 {
            let t = Instant::now();
            match sample(&mut matcher.clone(), &tokenizer, EOS, &mut Random(seed), 60, &[]) {
                Ok(o) if o.finished => {
                    let text = text_of(&tokenizer, &o.ids);
                    let value: Value = serde_json::from_str(&text).unwrap();
                    if jsonschema::validator_for(&schema).unwrap().is_valid(&value) {
                        fine += 1
                    } else {
                        wrong += 1;
                        seen.insert(format!("WRONG {text}"));
                    }
                    if seen.len() < 6 {
                        seen.insert(text);
                    }
                }
                Ok(_) => open += 1,
                Err(e) => errors.push(e.to_string()),
            }
            slow = slow.max(t.elapsed());
        }
        println!(
            "{schema}: compiled {compiled:?} fine {fine} wrong {wrong} open {open} errors {} {:?} slowest {slow:?} {seen:?}",
            errors.len(),
            errors.first()
        );
    }
}
