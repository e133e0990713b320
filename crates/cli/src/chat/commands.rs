//! What a person types in `farthing chat`: commands and settings.

use engine::Sampling;
use farthing::GenerateOptions;

pub const HELP: &str = "\
/help            this list
/system [TEXT]   set the system prompt (without TEXT: remove it), and start over
/reset           start over
/retry           answer the last message again
/edit [TEXT]     change the last message (without TEXT: at the prompt), and answer it
/model NAME      go on with another model
/set             show the settings
/set NAME VALUE  temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, seed, max_tokens
/save FILE       write the conversation as JSON
/load FILE       go on with a conversation that /save wrote
/stats           show or hide a line of statistics after each answer
/quit            leave (or ctrl-d)
A message of several lines: begin and end it with \"\"\", or end a line with \\. Ctrl-c stops an answer.
";

/// Commands, for completion.
pub const COMMANDS: [&str; 13] = [
    "/edit", "/help", "/load", "/model", "/quit", "/reset", "/retry", "/save", "/set", "/stats", "/system", "/clear",
    "/exit",
];
/// What /set changes.
pub const SETTINGS: [&str; 10] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_tokens",
];

/// The known word that is most like what was typed, in words; nothing where none is alike.
fn nearest(typed: &str, known: &[&str]) -> String {
    let likeness = |word: &str| strsim::jaro(word.trim_start_matches('/'), typed.trim_start_matches('/'));
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|word| likeness(word) > 0.75);
    best.map_or_else(String::new, |word| format!("did you mean {word}? "))
}

/// What a person typed.
#[derive(Debug, PartialEq)]
pub enum Input<'a> {
    Nothing,
    Say(&'a str),
    Help,
    System(Option<&'a str>),
    Reset,
    Retry,
    Edit(Option<&'a str>),
    Model(&'a str),
    Show,
    Set(&'a str, &'a str),
    Save(&'a str),
    Load(&'a str),
    Stats,
    Quit,
    Wrong(String),
}

/// Read a line.
pub fn parse(text: &str) -> Input<'_> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Input::Nothing;
    }
    if !trimmed.starts_with('/') || trimmed.contains('\n') {
        return Input::Say(text.trim_end_matches('\n'));
    }
    let (command, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    let rest = rest.trim();
    match command {
        "/help" | "/?" => Input::Help,
        "/system" => Input::System(Some(rest).filter(|r| !r.is_empty())),
        "/reset" | "/clear" => Input::Reset,
        "/retry" | "/regen" => Input::Retry,
        "/edit" => Input::Edit(Some(rest).filter(|r| !r.is_empty())),
        "/model" if rest.is_empty() => Input::Wrong("/model: give a model, as on the command line".to_string()),
        "/model" => Input::Model(rest),
        "/set" if rest.is_empty() => Input::Show,
        "/set" => match rest.split_once(char::is_whitespace) {
            Some((name, value)) => Input::Set(name, value.trim()),
            None => Input::Wrong(format!("/set {rest}: give a value too, such as /set temperature 0.7")),
        },
        "/save" if rest.is_empty() => Input::Wrong("/save: give a file name".to_string()),
        "/save" => Input::Save(rest),
        "/load" if rest.is_empty() => Input::Wrong("/load: give the name of a file that /save wrote".to_string()),
        "/load" => Input::Load(rest),
        "/stats" => Input::Stats,
        "/quit" | "/exit" | "/bye" => Input::Quit,
        other => Input::Wrong(format!("{other} is no command; {}/help lists all", nearest(other, &COMMANDS))),
    }
}

/// Change one setting.
pub fn set(options: &mut GenerateOptions, vocab: usize, name: &str, value: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("{name} {value}: give a number"))
    }
    let mut changed: Sampling = options.sampling.clone();
    match name {
        "temperature" => changed.temperature = number(name, value)?,
        "top_k" => changed.top_k = number(name, value)?,
        "top_p" => changed.top_p = number(name, value)?,
        "min_p" => changed.min_p = number(name, value)?,
        "typical_p" => changed.typical_p = number(name, value)?,
        "repetition_penalty" => changed.repetition_penalty = number(name, value)?,
        "presence_penalty" => changed.presence_penalty = number(name, value)?,
        "frequency_penalty" => changed.frequency_penalty = number(name, value)?,
        "seed" if value == "random" => changed.seed = None,
        "seed" => changed.seed = Some(number(name, value)?),
        "max_tokens" => options.max_tokens = number(name, value)?,
        other => return Err(format!("{other} is no setting; {}/help lists all", nearest(other, &SETTINGS))),
    }
    changed.validate(vocab).map_err(|e| e.to_string())?;
    options.sampling = changed;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed() {
        assert_eq!(parse("  "), Input::Nothing);
        assert_eq!(parse("hello /there"), Input::Say("hello /there"));
        assert_eq!(parse("/help"), Input::Help);
        assert_eq!(parse("/system Be brief."), Input::System(Some("Be brief.")));
        assert_eq!(parse("/system"), Input::System(None));
        assert_eq!(parse("/set"), Input::Show);
        assert_eq!(parse("/set top_p  0.5 "), Input::Set("top_p", "0.5"));
        assert_eq!(parse("/save a b.json"), Input::Save("a b.json"));
        assert_eq!(parse("/load a b.json"), Input::Load("a b.json"));
        assert_eq!(parse("/retry"), Input::Retry);
        assert_eq!(parse("/edit"), Input::Edit(None));
        assert_eq!(parse("/edit Once  more"), Input::Edit(Some("Once  more")));
        assert_eq!(parse("/model org/name"), Input::Model("org/name"));
        assert!(matches!(parse("/load"), Input::Wrong(_)) && matches!(parse("/model"), Input::Wrong(_)));
        assert_eq!(
            parse("/retyr"),
            Input::Wrong("/retyr is no command; did you mean /retry? /help lists all".to_string())
        );
        assert_eq!(parse("/frob"), Input::Wrong("/frob is no command; /help lists all".to_string()));
        assert!(matches!(parse("/set top_p"), Input::Wrong(_)));
        assert!(matches!(parse("/what"), Input::Wrong(_)));
        // Pasted text of several lines is text, whatever it begins with.
        assert_eq!(parse("/usr/bin\nls"), Input::Say("/usr/bin\nls"));
        assert_eq!(parse("/quit"), Input::Quit);
    }

    #[test]
    fn settings_are_checked() {
        let mut options = GenerateOptions { sampling: Sampling::default(), max_tokens: 5, stop: Vec::new() };
        assert!(set(&mut options, 10, "temperature", "0.7").is_ok());
        assert_eq!(options.sampling.temperature, 0.7);
        assert!(set(&mut options, 10, "top_p", "7").unwrap_err().contains("from 0 to 1"));
        assert!(set(&mut options, 10, "top_p", "x").is_err());
        assert_eq!(set(&mut options, 10, "colour", "1").unwrap_err(), "colour is no setting; /help lists all");
        let temp = set(&mut options, 10, "temp", "1").unwrap_err();
        assert_eq!(temp, "temp is no setting; did you mean temperature? /help lists all");
        assert!(set(&mut options, 10, "seed", "7").is_ok() && options.sampling.seed == Some(7));
        assert!(set(&mut options, 10, "seed", "random").is_ok() && options.sampling.seed.is_none());
        assert!(set(&mut options, 10, "max_tokens", "9").is_ok() && options.max_tokens == 9);
        assert_eq!(options.sampling.top_p, 1.0);
    }
}
