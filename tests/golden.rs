//! The recorded PyTorch cases, through the code that trains, samples and evaluates.

use assert_cmd::Command;
use candle_core::Device;
use eqdiff::ops::Precision;
use eqdiff::verify;

#[test]
fn embedded_cases_agree_with_pytorch() {
    let mut checks = Vec::new();
    // candle walks the graph recursively, deeper than a test thread's stack
    let worker = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        verify::run(None, &[], &Device::Cpu, Precision::F32, &mut |check| checks.push(check.clone())).map(|()| checks)
    });
    let checks = worker.expect("a thread").join().expect("no panic").expect("the cases can be read");
    let methods = ["textual_inversion", "custom_diffusion", "custom_diffusion_sample", "dreambooth", "dreambooth_text"];
    let matched = ["matching", "dreammatcher", "dreammatcher_guided", "elite", "elite_local_step", "elite_sample"];
    let own = ["bands", "tokens", "samplers", "vae", "first_step", "step", "sample", "metrics"];
    for case in own.into_iter().chain(methods).chain(matched) {
        let of_case = checks.iter().filter(|check| check.name.starts_with(&format!("{case}:")));
        assert!(of_case.count() > 0, "no checks of {case}");
    }
    let failed: Vec<_> = checks.iter().filter(|check| !check.passed()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn nothing_to_compare_is_no_success() {
    let mut command = Command::cargo_bin("eqdiff").expect("the program");
    let output = command.args(["verify", "--dtype", "bf16", "--only", "methods"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--only methods: there is no such case in bf16; --dtype f32 has more"), "{said}");
}

/// Where the processor lacks a width, the best that it has runs.
#[test]
fn narrower_vectors_and_half_precision_agree_with_pytorch() {
    let narrower = ["avx512bf16", "avx512", "avx2", "portable"].map(|simd| (simd, "f32"));
    for (simd, dtype) in narrower.into_iter().chain([("", "bf16"), ("avx512bf16", "bf16"), ("avx2", "f16")]) {
        let mut command = Command::cargo_bin("eqdiff").expect("the program");
        let output = command.args(["verify", "--dtype", dtype]).env("EQDIFF_SIMD", simd).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let mut failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAILED")).collect();
        assert!(text.lines().count() > 300, "{simd} {dtype}: {}", String::from_utf8_lossy(&output.stderr));
        if dtype == "bf16" {
            // weights of 8 bits alone move the gradients of these small models by more than the bound
            failed.retain(|line| !["grad ", "after ", "fusion mask"].iter().any(|part| line.contains(part)));
        }
        assert!(failed.is_empty(), "{simd} {dtype}: {failed:#?}");
    }
}

#[test]
fn a_wrong_number_is_noticed() {
    let check = |error| verify::Check { name: "x".into(), error, bound: 1e-4 };
    assert!(check(1e-5).passed() && !check(1e-3).passed() && !check(f64::NAN).passed());
}
