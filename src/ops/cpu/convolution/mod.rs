//! Convolutions over pictures [B, h, w, C].

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod tiles;
pub mod winograd;
