//! Prompts that a careless call would take for something else.

use super::Codex;

#[track_caller]
fn reaches_the_model(prompt: &str) {
    let codex = Codex::new();
    codex.run("a", prompt).assert_end_turn();
    let asked = codex.model.requests();
    assert_eq!(asked[0].prompt, prompt.trim());
}

#[test]
fn g8_words_that_are_subcommands_are_prompts() {
    for prompt in ["help", "review", "resume"] {
        reaches_the_model(prompt);
    }
}

#[test]
fn g8_flags_are_prompts() {
    for prompt in ["--version", "-", "-c model=x\n--help"] {
        reaches_the_model(prompt);
    }
}

#[test]
fn a_prompt_longer_than_an_argument_may_be_reaches_the_model() {
    reaches_the_model(&format!("Read this. {}", "Lorem ipsum. ".repeat(16_000)));
}

#[test]
fn a_prompt_with_odd_bytes_reaches_the_model() {
    reaches_the_model("before\0after \u{1b}[31m \u{202e} “quoted” 🦀");
}
