//! What cargo does not see by itself.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // the files there are part of the program
    println!("cargo:rerun-if-changed=assets");
    println!("cargo:rerun-if-changed=configs");
    // EQDIFF_PORTABLE=1 builds what a processor gets that is not x86-64, for checks on one that is
    println!("cargo:rustc-check-cfg=cfg(eqdiff_portable)");
    println!("cargo:rerun-if-env-changed=EQDIFF_PORTABLE");
    if std::env::var_os("EQDIFF_PORTABLE").is_some() {
        println!("cargo:rustc-cfg=eqdiff_portable");
    }
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        kernels();
    }
}

/// Compiles every kernel file to PTX of compute capability 8.0, which the driver of any GPU from A100 on compiles for it.
fn kernels() {
    let sources = Path::new("src/ops/cuda");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let nvcc = match (std::env::var_os("NVCC"), std::env::var_os("CUDA_HOME")) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) if Path::new(&home).join("bin/nvcc").exists() => Path::new(&home).join("bin/nvcc"),
        _ => PathBuf::from("nvcc"),
    };
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo's folder for what is built"));
    for entry in std::fs::read_dir(sources).expect("src/ops/cuda") {
        let source = entry.expect("a file of src/ops/cuda").path();
        if source.extension().is_none_or(|extension| extension != "cu") {
            continue;
        }
        let ptx = out.join(source.file_name().expect("a name")).with_extension("ptx");
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-O3", "-arch=compute_80", "--ptx", "-o"]).arg(ptx).arg(&source);
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("nvcc ended with {status} on {}", source.display()),
            Err(error) => panic!("cannot run {}: {error}; feature `cuda` needs CUDA's compiler", nvcc.display()),
        }
    }
}
