//! Bodies of requests in every dialect: what is taken is within its bounds, what is refused says so in a short line.
use engine::Sampling;
use serve::api::embeddings::{self, EmbedRequest, Form, INPUTS_MAX};
use serve::api::tokenize::{parse_detokenize, parse_tokenize};
use serve::api::{ApiError, Fields, ModelDefaults, chat, completions, llama_cpp, messages, rerank, responses};
use serve::request::{GenerateRequest, Prompt, RequestInput};

const VOCAB: usize = 1000;

fn sound(request: &GenerateRequest) {
    let params = &request.params;
    params.sampling.validate(VOCAB).expect("checked");
    assert!(params.stop.len() <= 16 && params.stop.iter().all(|s| !s.is_empty()));
    assert!(params.log_probabilities.is_none_or(|n| n <= 20));
    assert!((1..=16).contains(&params.choices) && params.best_of >= params.choices);
    match &request.input {
        RequestInput::Conversation { messages, .. } => {
            assert!(messages.iter().all(|m| m.content.is_some()));
        }
        RequestInput::Prompts { prompts, .. } => {
            let ids = prompts.iter().filter_map(|p| if let Prompt::Tokens(ids) = p { Some(ids) } else { None });
            assert!(!prompts.is_empty() && ids.flatten().all(|&id| (id as usize) < VOCAB));
        }
    }
}

fn short(refused: ApiError) {
    assert!(refused.message.len() < 4096 && !refused.message.contains('\n'), "{refused:?}");
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let defaults = Sampling::default();
    let model = ModelDefaults { defaults: &defaults, vocab: VOCAB };
    for parse in [
        chat::parse,
        completions::parse,
        responses::parse,
        messages::parse,
        llama_cpp::parse_completion,
        llama_cpp::parse_infill,
    ] {
        match Fields::parse(data).and_then(|mut fields| parse(&mut fields, model)) {
            Ok(request) => sound(&request),
            Err(refused) => short(refused),
        }
    }
    for form in [Form::OpenAi, Form::Ollama, Form::OllamaOne] {
        match Fields::parse(data).and_then(|mut fields| embeddings::parse(&mut fields, form, model)) {
            Ok(EmbedRequest { inputs, dimensions, .. }) => {
                assert!(inputs.len() <= INPUTS_MAX && (!inputs.is_empty() || form != Form::OpenAi));
                assert!(dimensions != Some(0));
            }
            Err(refused) => short(refused),
        }
    }
    match Fields::parse(data).and_then(|mut fields| rerank::parse(&mut fields)) {
        Ok(request) => assert!((1..=INPUTS_MAX).contains(&request.documents.len()) && request.top_n > 0),
        Err(refused) => short(refused),
    }
    if let Err(refused) = Fields::parse(data).and_then(|mut fields| parse_tokenize(&mut fields, model)) {
        short(refused);
    }
    if let Err(refused) = Fields::parse(data).and_then(|mut fields| parse_detokenize(&mut fields, model, VOCAB)) {
        short(refused);
    }
}
