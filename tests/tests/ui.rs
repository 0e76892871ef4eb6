//! What does not fit together does not compile, and the compiler's message speaks of the user's own types.
//! Each file of `ui` holds one mistake, and beside it what the one supported toolchain says of it.

#[test]
fn misuse_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/wrong_link.rs");
    cases.compile_fail("tests/ui/input_not_send.rs");
    cases.compile_fail("tests/ui/not_a_model.rs");
    cases.compile_fail("tests/ui/future_not_send.rs");
    cases.compile_fail("tests/ui/wrong_model_input.rs");
}
