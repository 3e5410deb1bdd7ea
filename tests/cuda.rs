//! The CUDA kernels, compiled as ordinary C++ and run on this processor against plain loops, each with the threads of its
//! blocks in three orders (`tests/cuda/emulate.hpp`). `scripts/check-cuda.sh kernels` does the same with sanitizers on,
//! and compiles them for real GPUs.

use std::path::Path;
use std::process::Command;

fn check(name: &str) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        eprintln!("skipped: the emulation switches its fibers on x86-64 and Linux only");
        return;
    }
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler {compiler:?} (CXX names another one)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda").join(name).with_extension("cpp");
    let flags = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-Wno-unknown-pragmas"];
    let compiled =
        Command::new(&compiler).args(flags).arg(&source).arg("-o").arg(&program).output().expect("a compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let run = Command::new(&program).output().expect("a program");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains(" 0 failed"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn adamw() {
    check("adamw");
}

#[test]
fn attention() {
    check("attention");
}

#[test]
fn convolution() {
    check("convolution");
}

#[test]
fn norm() {
    check("norm");
}

#[test]
fn pointwise() {
    check("pointwise");
}

#[test]
fn emulation() {
    check("emulation");
}
