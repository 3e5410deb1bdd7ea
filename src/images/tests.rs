#[test]
fn scratch() {
    let Ok(dir) = std::env::var("EQ_FX") else { return };
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for f in files {
        let raw = std::path::PathBuf::from(format!("{}.raw", f.display()));
        if !raw.exists() { continue; }
        let raw = std::fs::read(raw).unwrap();
        let d = |i: usize| u32::from_le_bytes(raw[i..i + 4].try_into().unwrap());
        match super::read(&f) {
            Err(e) => println!("{:24} ERR {e:#}", f.file_name().unwrap().display()),
            Ok(r) => {
                let same = r.image.dimensions() == (d(0), d(4));
                let gap: Vec<u8> = r.image.as_raw().iter().zip(&raw[8..]).map(|(a, b)| a.abs_diff(*b)).collect();
                let mean = gap.iter().map(|&g| g as f64).sum::<f64>() / gap.len() as f64;
                println!("{:24} {same} max {} mean {mean:.3} {:?}", f.file_name().unwrap().display(), gap.iter().max().unwrap(), r.warnings);
            }
        }
    }
}
