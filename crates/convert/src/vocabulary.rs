//! A tokenizer as the keys of a GGUF file, under the names that llama.cpp's converter writes.

use model::gguf::TypedValue;
use text::Vocabulary;

use crate::plan::GgufPlan;

/// Sources of chat templates: the usual one, and those with names.
#[derive(Clone, Debug, Default)]
pub struct ChatTemplates {
    /// `tokenizer.chat_template`.
    pub default: Option<String>,
    /// For conversations with tools.
    pub tool_use: Option<String>,
}

impl GgufPlan {
    /// Takes the tokenizer's keys; without a vocabulary the file says that there is none.
    pub fn set_tokenizer(&mut self, vocabulary: Option<&Vocabulary>, padding: Option<u32>, templates: &ChatTemplates) {
        let mut set = |key: &str, value| self.set(&format!("tokenizer.{key}"), value);
        let Some(vocabulary) = vocabulary else {
            set("ggml.model", TypedValue::Text("none".to_string()));
            return;
        };
        set("ggml.model", TypedValue::Text(vocabulary.model.clone()));
        if let Some(pre) = &vocabulary.pre {
            set("ggml.pre", TypedValue::Text(pre.clone()));
        }
        set("ggml.tokens", TypedValue::Texts(vocabulary.tokens.clone()));
        if !vocabulary.scores.is_empty() {
            set("ggml.scores", TypedValue::F32s(vocabulary.scores.clone()));
        }
        set("ggml.token_type", TypedValue::I32s(vocabulary.types.iter().map(|&kind| kind as i32).collect()));
        if !vocabulary.merges.is_empty() {
            set("ggml.merges", TypedValue::Texts(vocabulary.merges.clone()));
        }
        let ids =
            [("bos", vocabulary.bos), ("eos", vocabulary.eos), ("unknown", vocabulary.unknown), ("padding", padding)];
        for (name, id) in ids {
            if let Some(id) = id {
                set(&format!("ggml.{name}_token_id"), TypedValue::U32(id));
            }
        }
        let flags = [
            ("add_bos_token", vocabulary.add_bos),
            ("add_eos_token", vocabulary.add_eos),
            ("add_space_prefix", vocabulary.add_space_prefix),
        ];
        for (name, flag) in flags {
            if let Some(flag) = flag {
                set(&format!("ggml.{name}"), TypedValue::Bool(flag));
            }
        }
        for (key, template) in [("chat_template", &templates.default), ("chat_template.tool_use", &templates.tool_use)]
        {
            if let Some(template) = template {
                set(key, TypedValue::Text(template.clone()));
            }
        }
        if templates.tool_use.is_some() {
            set("chat_templates", TypedValue::Texts(vec!["tool_use".to_string()]));
        }
    }
}
