fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(2).map(std::path::PathBuf::from);
    eqdiff::verify::run(dir.as_deref(), &candle_core::Device::Cpu, &mut |c| {
        println!("{} {:<90} {:.2e} {:.0e}", if c.passed() { "ok  " } else { "FAIL" }, c.name, c.error, c.bound)
    })
}
