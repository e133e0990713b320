//! Chat templates: compiling and rendering one, with little fuel.
use text::chat::{Context, Message, Role, Template};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let Ok(template) = Template::with_fuel(source, 20_000) else { return };
    let messages = [(Role::System, "Be brief."), (Role::User, "a \u{e9} b"), (Role::Assistant, "c")]
        .map(|(role, content)| Message::new(role, content).into_json(false));
    let context = Context {
        add_generation_prompt: true,
        bos_token: "<s>".to_string(),
        eos_token: "</s>".to_string(),
        tools: None,
        extra: serde_json::Map::new(),
    };
    let _ = template.render(&messages, &context);
}
