//! How fast a snapshot is verified: seals a file as one tensor beside it, then verifies it as a restore does.
//!
//! `cargo run -p snapshot --example verify-speed -- FILE [THREADS]`: one line for each of ten lives.

use snapshot::{SealPlan, Snapshot, TensorPlan, seal};
use std::{env, error::Error, fs, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let content = fs::read(arguments.next().ok_or("which file?")?)?;
    let threads = arguments.next().map_or(Ok(2), |word| word.parse())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("speed.snapshot");
    let bytes = content.len() as u64;
    let tensor =
        TensorPlan { name: "all".into(), dtype: "u8".into(), layout: "row-major".into(), shape: vec![bytes], bytes };
    let plan = SealPlan {
        model: "speed".into(),
        target: "portable".into(),
        weights: "native".into(),
        tensors: vec![tensor],
        sections: vec![],
        encrypt: None,
    };
    let started = Instant::now();
    seal(&path, plan, &mut |_, out| out.write_all(&content), &mut |_, _| {})?;
    println!("seal            {:8.2} ms", started.elapsed().as_secs_f64() * 1e3);
    for _ in 0..10 {
        let started = Instant::now();
        let snapshot = Snapshot::open(&path)?;
        let opened = started.elapsed();
        snapshot.verify_in_background(threads).wait()?;
        let verified = started.elapsed();
        let rate = bytes as f64 / (verified - opened).as_secs_f64() / 1e9;
        let (opened, verified) = (opened.as_secs_f64() * 1e3, verified.as_secs_f64() * 1e3);
        println!("open {opened:6.3} ms   verified {verified:7.2} ms   {rate:6.1} GB/s on {threads} threads");
    }
    let started = Instant::now();
    Snapshot::open(&path)?.verify_all(&mut |_, _| {})?;
    println!("with the digest {:8.2} ms", started.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
