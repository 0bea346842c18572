//! Target `text`: under libFuzzer where it is built for that, else once for each file that is named.
#![forbid(unsafe_code)]
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| pccl_fuzz::run("text", data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    pccl_fuzz::replay("text")
}
