//! What cargo does not see by itself.

use std::collections::BTreeSet;
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
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo's folder for what is built"));
        kernels(&out);
        let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
        if target("ARCH") == "x86_64" && target("OS") == "linux" {
            lazy_libraries(&out);
        }
    }
}

/// Compiles every kernel file to PTX of compute capability 8.0, which the driver of any GPU from A100 on compiles for it.
fn kernels(out: &Path) {
    let sources = Path::new("src/ops/cuda");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let nvcc = match (std::env::var_os("NVCC"), std::env::var_os("CUDA_HOME")) {
        (Some(nvcc), _) => PathBuf::from(nvcc),
        (None, Some(home)) if Path::new(&home).join("bin/nvcc").exists() => Path::new(&home).join("bin/nvcc"),
        _ => PathBuf::from("nvcc"),
    };
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

/// The bindings' module, the library's name for the linker, and the names to load it by.
const LIBRARIES: [(&str, &str, &str); 5] = [
    ("driver", "cuda", "\"libcuda.so.1\""),
    ("cublas", "cublas", "\"libcublas.so.13\", \"libcublas.so.12\""),
    ("cublaslt", "cublasLt", "\"libcublasLt.so.13\", \"libcublasLt.so.12\""),
    ("curand", "curand", "\"libcurand.so.10\""),
    ("nvrtc", "nvrtc", "\"libnvrtc.so.13\", \"libnvrtc.so.12\""),
];

/// Archives under the names of NVIDIA's libraries whose functions load them when they are first called: else the program
/// would not start where they are missing.
fn lazy_libraries(out: &Path) {
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=dylib=dl");
    let metadata = metadata();
    let source = Path::new("src/ops/cuda/lazy.c").canonicalize().expect("src/ops/cuda/lazy.c");
    for (module, library, names) in LIBRARIES {
        let bindings = source_of("cudarc", &metadata).join("src").join(module).join("sys/mod.rs");
        let text = std::fs::read_to_string(&bindings).unwrap_or_else(|error| panic!("{}: {error}", bindings.display()));
        let name = |rest: &str| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().map(str::to_string);
        let ours =
            |name: &String| (name.starts_with("cu") || name.starts_with("nvrtc")) && name.contains(char::is_uppercase);
        let functions: BTreeSet<String> = text.split(" fn ").skip(1).filter_map(name).filter(ours).collect();
        let functions: String = functions.iter().map(|name| format!("FUNCTION({name})\n")).collect();
        archive(out, library, &format!("#define LIBRARIES {names}\n#include \"{}\"\n{functions}", source.display()));
    }
    // candle's mixture-of-experts kernels, of no use here, are the only users of the runtime library
    let text = std::fs::read_to_string(source_of("candle-kernels", &metadata).join("src/ffi.rs"))
        .expect("candle-kernels' ffi.rs");
    let name = |rest: &str| rest.split('(').next().map(|name| format!("void {}(void) {{ abort(); }}\n", name.trim()));
    let experts: String = text.split(" fn ").skip(1).filter_map(name).collect();
    archive(out, "moe", &format!("#include <stdlib.h>\n{experts}"));
    archive(out, "cudart", "");
}

/// What `cargo metadata` says of this crate's dependencies: those for tests too, which a build alone has not fetched.
fn metadata() -> String {
    let (cargo, target) = (std::env::var_os("CARGO").expect("cargo"), std::env::var_os("TARGET").expect("a target"));
    let asked = |network: &[&str]| {
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--format-version", "1", "--features", "cuda", "--filter-platform"]).arg(&target);
        command.args(network).output().expect("cargo metadata")
    };
    let mut said = asked(&["--offline"]);
    if !said.status.success() {
        said = asked(&[]);
    }
    assert!(said.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).expect("text")
}

/// Where cargo has the sources of a crate that this one depends on, by what `cargo metadata` says.
fn source_of(name: &str, metadata: &str) -> PathBuf {
    let paths = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let mut folders = paths.filter_map(|path| Path::new(path).parent());
    let versioned = format!("{name}-");
    let is_it =
        |folder: &&Path| folder.file_name().is_some_and(|folder| folder.to_string_lossy().starts_with(&versioned));
    folders.find(is_it).unwrap_or_else(|| panic!("cargo metadata does not tell where {name} is")).to_path_buf()
}

/// lib`name`.a of C code.
fn archive(out: &Path, name: &str, code: &str) {
    let (source, object, archive) =
        (out.join(format!("{name}.c")), out.join(format!("{name}.o")), out.join(format!("lib{name}.a")));
    std::fs::write(&source, code).expect("cargo's folder for what is built");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-O1", "-fPIC", "-w", "-fno-builtin", "-c", "-o"])
        .arg(&object)
        .arg(&source)
        .status();
    assert!(compiled.is_ok_and(|status| status.success()), "no C compiler made {}", object.display());
    let _ = std::fs::remove_file(&archive);
    let archived = Command::new("ar").arg("rcs").arg(&archive).arg(&object).status();
    assert!(archived.is_ok_and(|status| status.success()), "ar did not make {}", archive.display());
}
