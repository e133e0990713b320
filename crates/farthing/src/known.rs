//! Models known to run: names to type, what they take, and the speeds that were measured.

use serde::Serialize;

use crate::words::count;

/// A model that people look for. Sizes are computed from the published shapes by the memory plan, and lie within a hundredth of the files' where these are
/// known; the vocabulary, some megabytes, is not counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KnownModel {
    /// Name to type.
    pub name: &'static str,
    /// Its name at the hub.
    pub id: &'static str,
    /// Kind of attention, and MoE where only some experts are used.
    pub structure: &'static str,
    /// Weights.
    pub parameters: u64,
    /// Weights that a token uses.
    pub active_parameters: u64,
    /// Bytes of its weight files.
    pub bytes: u64,
    /// Bytes of memory with a context of 4096 tokens.
    pub memory: u64,
    /// Licence of the weights.
    pub licence: &'static str,
    /// Suggested where memory is just enough for it.
    pub first: bool,
    /// Decoded tokens per second by instruction set, where measured: with random weights of this shape on two threads (docs/PERFORMANCE.md).
    pub decode: &'static [(&'static str, f32)],
}

impl KnownModel {
    /// Parameters in words, with those that a token uses where they are fewer.
    pub fn parameters_in_words(&self) -> String {
        let all = count(self.parameters);
        match self.active_parameters < self.parameters {
            true => format!("{all} ({} active)", count(self.active_parameters)),
            false => all,
        }
    }

    /// Measured tokens per second in words; empty where nothing was measured.
    pub fn decode_in_words(&self) -> String {
        self.decode.iter().map(|(isa, rate)| format!("{rate} {isa}")).collect::<Vec<_>>().join(", ")
    }
}

/// `parameters`: all, and those that a token uses; `bytes`: of the files, and of memory.
const fn model(
    name: &'static str,
    id: &'static str,
    structure: &'static str,
    parameters: [u64; 2],
    bytes: [u64; 2],
    licence: &'static str,
) -> KnownModel {
    let [parameters, active_parameters] = parameters;
    let [bytes, memory] = bytes;
    KnownModel { name, id, structure, parameters, active_parameters, bytes, memory, licence, first: false, decode: &[] }
}

/// All of them, the smallest first.
#[rustfmt::skip]
pub const KNOWN: &[KnownModel] = &[
    model("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0", "GQA", [361_821_120, 361_821_120], [384_636_064, 665_344_456], "Apache-2.0"),
    model("gemma-3-270m", "google/gemma-3-270m-it", "GQA", [268_098_176, 268_098_176], [536_225_032, 762_555_978], "Gemma"),
    KnownModel { decode: &[("AVX-512", 26.8), ("AVX2", 41.96)], ..model("llama-3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "GQA", [1_235_814_400, 1_235_814_400], [799_872_000, 1_150_834_944], "Llama 3.2") },
    KnownModel { first: true, ..model("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF:Q8_0", "GQA", [596_049_920, 596_049_920], [633_514_368, 1_278_432_224], "Apache-2.0") },
    model("deepseek-r1-1.5b", "bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF:Q4_K_M", "GQA", [1_777_088_000, 1_777_088_000], [1_111_390_112, 1_523_455_368], "MIT"),
    model("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M", "GQA", [1_777_088_000, 1_777_088_000], [1_111_390_112, 1_523_455_368], "Apache-2.0"),
    model("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M", "MHA", [1_711_376_384, 1_711_376_384], [1_053_840_608, 2_139_384_344], "Apache-2.0"),
    model("gemma-3-1b", "google/gemma-3-1b-it", "GQA", [999_885_952, 999_885_952], [1_999_814_064, 2_511_519_152], "Gemma"),
    KnownModel { first: true, ..model("qwen3-1.7b", "Qwen/Qwen3-1.7B-GGUF:Q8_0", "GQA", [1_720_574_976, 1_720_574_976], [1_828_493_696, 2_700_908_928], "Apache-2.0") },
    model("llama-3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "GQA", [3_212_749_824, 3_212_749_824], [2_011_555_136, 2_883_970_368], "Llama 3.2"),
    KnownModel { first: true, ..model("qwen3-4b", "Qwen/Qwen3-4B-GGUF:Q4_K_M", "GQA", [4_022_468_096, 4_022_468_096], [2_491_347_936, 3_497_980_896], "Apache-2.0") },
    model("mistral-7b", "bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q4_K_M", "GQA", [7_248_023_552, 7_248_023_552], [4_372_071_904, 5_311_596_000], "Apache-2.0"),
    model("deepseek-r1-7b", "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF:Q4_K_M", "GQA", [7_615_616_512, 7_615_616_512], [4_677_139_872, 5_314_674_080], "MIT"),
    model("qwen2.5-coder-7b", "bartowski/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M", "GQA", [7_615_616_512, 7_615_616_512], [4_677_139_872, 5_314_674_080], "Apache-2.0"),
    model("llama-3.1-8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "GQA", [8_030_261_248, 8_030_261_248], [4_912_915_936, 5_852_440_032], "Llama 3.1"),
    KnownModel { first: true, ..model("qwen3-8b", "Qwen/Qwen3-8B-GGUF:Q4_K_M", "GQA", [8_190_735_360, 8_190_735_360], [5_021_851_168, 6_028_484_128], "Apache-2.0") },
    model("qwen3-14b", "Qwen/Qwen3-14B-GGUF:Q4_K_M", "GQA", [14_768_307_200, 14_768_307_200], [8_995_820_608, 10_069_562_432], "Apache-2.0"),
    model("deepseek-r1-14b", "bartowski/DeepSeek-R1-Distill-Qwen-14B-GGUF:Q4_K_M", "GQA", [14_770_033_664, 14_770_033_664], [8_982_176_608, 10_190_136_160], "MIT"),
    KnownModel { decode: &[("AVX-512", 13.18), ("AVX2", 19.31)], ..model("deepseek-v2-lite", "mradermacher/DeepSeek-V2-Lite-Chat-GGUF:Q4_K_M", "MLA, MoE", [15_706_484_224, 2_451_437_056], [10_367_474_656, 10_897_529_824], "DeepSeek") },
    model("deepseek-coder-v2-lite", "bartowski/DeepSeek-Coder-V2-Lite-Instruct-GGUF:Q4_K_M", "MLA, MoE", [15_706_484_224, 2_451_437_056], [10_367_474_656, 10_897_529_824], "DeepSeek"),
    KnownModel { first: true, ..model("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B-GGUF:Q4_K_M", "GQA, MoE", [30_532_122_624, 3_041_869_824], [18_550_753_504, 19_356_059_872], "Apache-2.0") },
    model("deepseek-v3.1", "deepseek-ai/DeepSeek-V3.1", "MLA, MoE", [671_026_419_200, 36_625_625_600], [688_587_940_576, 689_278_427_872], "MIT"),
];

/// The name at the hub that a name of the table stands for, with the tag or revision that was written behind it.
pub fn known_id(text: &str) -> Option<String> {
    let (name, rest) = text.split_at(text.find(['@', ':']).unwrap_or(text.len()));
    let known = KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))?;
    let repository = known.id.split(':').next().unwrap_or(known.id);
    Some(if rest.starts_with(':') { format!("{repository}{rest}") } else { format!("{}{rest}", known.id) })
}

/// Names of the table that begin as `text` does, whatever stands between letters and digits: `llama3` finds `llama-3.2-1b`.
pub fn alike(text: &str) -> Vec<&'static str> {
    let dense = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let typed = dense(text.split(['@', ':']).next().unwrap_or(text));
    let begins = |name: &str| !typed.is_empty() && (dense(name).starts_with(&typed) || typed.starts_with(&dense(name)));
    KNOWN.iter().map(|known| known.name).filter(|name| begins(name)).collect()
}

/// The model to begin with where this much memory is available: it leaves a fifth for other programs.
pub fn suggested(available: u64) -> Option<&'static KnownModel> {
    KNOWN.iter().rfind(|known| known.first && known.memory <= available / 5 * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for known in KNOWN {
            let name = hub::Name::parse(known.id).unwrap();
            assert_eq!(name.to_string(), known.id);
            assert!(known.bytes < known.memory && known.active_parameters <= known.parameters, "{}", known.name);
            assert_eq!(known.structure.contains("MoE"), known.active_parameters < known.parameters, "{}", known.name);
            assert_eq!(KNOWN.iter().filter(|other| other.name == known.name).count(), 1, "{}", known.name);
            // A weight takes from 4 to 16 bits.
            let bits = known.bytes as f64 * 8.0 / known.parameters as f64;
            assert!((4.5..16.1).contains(&bits), "{}: {bits}", known.name);
        }
        assert!(KNOWN.is_sorted_by_key(|known| known.memory));
    }

    #[test]
    fn short_names_stand_for_names_at_the_hub() {
        assert_eq!(known_id("qwen3-4b").as_deref(), Some("Qwen/Qwen3-4B-GGUF:Q4_K_M"));
        assert_eq!(known_id("Qwen3-4B:Q8_0").as_deref(), Some("Qwen/Qwen3-4B-GGUF:Q8_0"));
        assert_eq!(known_id("deepseek-v3.1@main").as_deref(), Some("deepseek-ai/DeepSeek-V3.1@main"));
        assert_eq!(known_id("qwen3-4"), None);
        assert_eq!(alike("llama3"), ["llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"]);
        assert_eq!(alike("llama3.2:1b"), ["llama-3.2-1b", "llama-3.2-3b"]);
        assert!(alike("").is_empty() && alike("mamba").is_empty());
    }

    #[test]
    fn a_first_model_by_memory() {
        let named = |gigabytes: u64| suggested(gigabytes << 30).map(|known| known.name);
        assert_eq!(
            [1, 4, 6, 13, 28].map(named),
            [None, Some("qwen3-1.7b"), Some("qwen3-4b"), Some("qwen3-8b"), Some("qwen3-30b-a3b")]
        );
    }
}
