//! The files under `assets` are part of the program; cargo does not see that they changed by itself.
fn main() {
    println!("cargo:rerun-if-changed=assets");
    println!("cargo:rerun-if-changed=configs");
}
