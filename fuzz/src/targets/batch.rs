//! Files of requests for batches: what is taken is within its bounds and read the same once more, what is refused says so in a short line.
use batches::Lines;
use serve::generation::batch_line::{CUSTOM_ID_BYTES_MAX, LineEndpoint, parse_line, validate};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    for endpoint in LineEndpoint::OPENAI.into_iter().chain([LineEndpoint::Messages]) {
        let all = validate(Lines::over(data), endpoint, |_| Ok(())).expect("bytes in memory");
        assert!(all.errors.len() <= 101 && (all.total > 0 || all.errors.len() == 1));
        for error in &all.errors {
            assert!(error.message.len() < 4096 && !error.message.contains('\n'), "{error:?}");
        }
        let mut lines = Lines::over(data);
        while let Some(line) = lines.next_line().expect("bytes in memory") {
            let Ok(request) = parse_line(&line.bytes, endpoint) else { continue };
            assert!((1..=CUSTOM_ID_BYTES_MAX).contains(&request.custom_id.len()));
            assert!(request.body.get("stream").is_none_or(|stream| *stream != true));
            assert_eq!(parse_line(&line.bytes, endpoint).as_ref(), Ok(&request));
        }
    }
}
