//! Which messages are answered from a manual: questions on the program, and plain questions on the world, which a model that has read neither declines

use crate::bm25::Hit;

/// Least share of a message's words, weighed by how rare they are, that one paragraph must have. Measured on the generators' held-out prompts:
/// docs/EVAL.md.
const COVERAGE_MIN: f64 = 0.6;
/// And least number of words: one word is in the manual by chance.
const SHARED_WORDS_MIN: usize = 2;
/// Most words of a message that is such a question.
const WORDS_MAX: usize = 30;
/// Most numbers of it that does not name the program: more are there to be sorted or added.
const NUMBERS_MAX: usize = 1;
/// Most words of a plain question.
const PLAIN_WORDS_MAX: usize = 20;

/// What plain questions begin with.
const INTERROGATIVES: [&str; 26] = [
    "how", "what", "which", "who", "whose", "whom", "where", "when", "why", "is", "are", "am", "was", "were", "can",
    "could", "do", "does", "did", "will", "would", "should", "may", "must", "has", "have",
];

/// Words by which a message is talk with the model, or asks it for a text.
const TALK: [&str; 7] = ["you", "your", "yours", "yourself", "story", "tale", "poem"];

/// The words of a message in small letters, without a polite beginning such as `Could you please tell me`.
fn words(message: &str) -> Vec<String> {
    let split = message.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut words: Vec<String> = split.map(str::to_lowercase).collect();
    if let [can, you, rest @ ..] = &words[..]
        && ["can", "could", "would", "will"].contains(&can.as_str())
        && you == "you"
    {
        let polite = ["please", "tell", "show", "explain", "describe", "help", "to", "me", "us"];
        words = rest.iter().skip_while(|word| polite.contains(&word.as_str())).cloned().collect();
    }
    words
}

fn is_talk(words: &[String]) -> bool {
    words.iter().any(|word| TALK.contains(&word.as_str()))
}

/// Whether a message is about the program: it names the program or a flag, or a paragraph of the manual has most of its words.
pub(crate) fn is_about(program: &str, message: &str, hits: &[Hit]) -> bool {
    let words = words(message);
    if words.len() > WORDS_MAX || message.trim().contains('\n') {
        return false;
    }
    let flag = message.split_whitespace().any(|word| word.starts_with("--") && word.len() > 2);
    let covered = || hits.iter().any(|hit| hit.coverage >= COVERAGE_MIN && hit.words >= SHARED_WORDS_MIN);
    let numbers = words.iter().filter(|word| word.bytes().all(|b| b.is_ascii_digit())).count();
    let named = flag || words.iter().any(|word| word == program);
    named || (!is_talk(&words) && numbers <= NUMBERS_MAX && covered())
}

/// Whether a message is one short question without numbers, lists or a text, and not to the model about itself.
pub(crate) fn is_plain_question(message: &str) -> bool {
    let (message, words) = (message.trim(), words(message));
    let one_sentence = message.ends_with('?') && !message[..message.len() - 1].contains(['?', '!', ':', ',', '\n']);
    one_sentence
        && !message.contains(". ")
        && !message.contains(|c: char| c.is_ascii_digit())
        && words.len() <= PLAIN_WORDS_MAX
        && words.first().is_some_and(|first| INTERROGATIVES.contains(&first.as_str()))
        && !is_talk(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_questions_are_told_from_tasks_and_talk() {
        for question in
            ["What is the capital of France?", " Why is the sky blue?", "Could you tell me how old the Earth is?"]
        {
            assert!(is_plain_question(question), "{question}");
        }
        for other in [
            "What is 3 + 4?",
            "What is your name?",
            "Which comes last here: owl, spade?",
            "Tom has an apple. How many are left?",
            "Do I know a story about a fox?",
            "Tell me why.",
            "What?\nWhere?",
            "?",
            "",
        ] {
            assert!(!is_plain_question(other), "{other}");
        }
        assert!(!is_plain_question(&format!("Why {}?", "so ".repeat(30))));
    }

    #[test]
    fn messages_about_the_program_name_it_or_share_its_words() {
        let hit = |coverage, words| [Hit { text: 0, score: 1.0, coverage, words }];
        let about = |message: &str, hits: &[Hit]| is_about("farthing", message, hits);
        assert!(about("Is Farthing fast?", &[]) && about("what does --port do", &[]));
        assert!(
            about("I want to list models.", &hit(0.7, 2))
                && about("Could you show me how to list models?", &hit(0.7, 2))
        );
        assert!(!about("I want to list models.", &hit(0.5, 2)) && !about("I want to list.", &hit(1.0, 1)));
        assert!(about("Sort models by size, 5 of them", &hit(0.7, 2)) && !about("Sort these: 5, 6", &hit(0.7, 2)));
        assert!(!about("Are you a language model?", &hit(1.0, 2)) && !about("-- well", &[]));
        assert!(!about(&"farthing ".repeat(40), &[]) && !about("farthing\nfarthing", &[]));
    }
}
