//! What cargo does not see by itself.
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
}
