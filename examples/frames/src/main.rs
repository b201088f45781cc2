//! A worker renders frames of 1920×1080 pixels, and its host shows how many it gets per second: copied, lent and copied once, and lent and read
//! where they were written. Run it with
//!
//! ```text
//! cargo run --release -p frames [picture.png [frames]]
//! ```
//!
//! Without a path the last frame goes to the directory for temporary files. Each way takes 300 frames, or as many as are given.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use witrpc::Error;
use witrpc::prelude::*;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const WIDTH: usize = 1920;
const HEIGHT: usize = 1080;
/// Red, green, blue, and how opaque.
const FRAME: usize = 4 * WIDTH * HEIGHT;
/// So many frames are rendered each way, unless another number is given.
const FRAMES: u32 = 300;
/// So many can be lent at a time: one that is shown, and those that are rendered meanwhile.
const LENT: u64 = 4;

#[witrpc::service]
trait Renderer {
    /// The pixels of a frame, in memory that is lent, or not.
    async fn frame(&self, number: u32, is_lent: bool) -> witrpc::Result<Blob>;
}

struct Plasma;

impl Renderer for Plasma {
    async fn frame(&self, number: u32, is_lent: bool) -> witrpc::Result<Blob> {
        if !is_lent {
            let mut pixels = vec![0; FRAME];
            render(number, &mut pixels);
            return Ok(pixels.into());
        }
        // The host reads it where it is rendered. It waits if the host has all that can be lent.
        let mut pixels = CallContext::current().lend(FRAME).await?;
        render(number, &mut pixels);
        Ok(pixels.freeze())
    }
}

/// Bands of colour that move from frame to frame.
fn render(number: u32, pixels: &mut [u8]) {
    let shift = usize::try_from(number).unwrap_or_default();
    for (y, row) in pixels.chunks_exact_mut(4 * WIDTH).enumerate() {
        let green = wave(y + 2 * shift);
        for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
            pixel.copy_from_slice(&[wave(x + y + 3 * shift), green, wave(x + shift), u8::MAX]);
        }
    }
}

/// Rises to 255, and falls.
fn wave(at: usize) -> u8 {
    let low = u8::try_from(at % 0x100).unwrap_or_default();
    if at % 0x200 < 0x100 { low } else { u8::MAX - low }
}

/// What a host does with a frame: here it looks at one pixel of each row, as if it scaled it down.
fn look(frame: &[u8]) -> u64 {
    frame.chunks_exact(4 * WIDTH).map(|row| u64::from(row[4 * (WIDTH / 2)])).sum()
}

/// How frames cross.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    is_lent: bool,
    is_trusted: bool,
}

const WAYS: [Way; 3] = [
    Way { name: "copied through the ring", is_lent: false, is_trusted: false },
    Way { name: "lent, and copied once", is_lent: true, is_trusted: false },
    Way { name: "lent, and read in place", is_lent: true, is_trusted: true },
];

#[tokio::main]
async fn main() -> Outcome<()> {
    if Agent::is_announced() {
        return Ok(Agent::from_env()?.with_service(RendererServer::new(Plasma)).run().await?);
    }
    let default = || std::env::temp_dir().join("witrpc-frame.png");
    let path = std::env::args_os().nth(1).map_or_else(default, PathBuf::from);
    let count = match std::env::args().nth(2) {
        Some(count) => count.parse().map_err(|error| format!("{count:?} frames: {error}"))?,
        None => FRAMES,
    };
    let mut slowest = None;
    for way in WAYS {
        match frames(way, count).await {
            Ok((rate, last)) => {
                let slowest = *slowest.get_or_insert(rate);
                println!("{:<24} {rate:>6.0} frames/s   {:.2} ×", way.name, rate / slowest);
                write(&path, &last)?;
            }
            // The worker has said why it cannot lend: this system has no memory for it.
            Err(error @ Error::Fault { .. }) if way.is_lent => println!("{:<24} {error}", way.name),
            Err(error) => return Err(error.into()),
        }
    }
    println!("the last frame is in {}", path.display());
    Ok(())
}

/// Has all frames rendered; how many per second, and the last one.
async fn frames(way: Way, count: u32) -> witrpc::Result<(f64, Blob)> {
    let worker = Worker::this_program().with_lending(LENT * (FRAME as u64));
    let worker = if way.is_trusted {
        // SAFETY: the worker is this program, which writes to no frame after it has been lent.
        unsafe { worker.with_trusted_peer() }
    } else {
        worker
    };
    let worker = worker.spawn().await?;
    let renderer = worker.get_service::<RendererClient>();
    let style = ProgressStyle::with_template("{msg:<24} {wide_bar} {pos}/{len}  {per_sec}");
    let progress = ProgressBar::new(count.into()).with_message(way.name);
    progress.set_style(style.map_err(Error::fault)?);
    let (began, mut shades) = (Instant::now(), 0);
    // While one is looked at, the next is being rendered.
    let mut next = tokio::spawn(renderer.frame(0, way.is_lent));
    let mut last = Blob::new();
    for number in 1..=count {
        let frame = next.await.map_err(Error::fault)??;
        next = tokio::spawn(renderer.frame(number, way.is_lent));
        shades += look(&frame);
        last = frame;
        progress.inc(1);
    }
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    next.abort();
    progress.finish_and_clear();
    assert_ne!(shades, 0, "nothing was rendered");
    // The picture stays, although its memory is the worker's, which ends here.
    Ok((rate, last))
}

fn write(path: &Path, pixels: &[u8]) -> Outcome<()> {
    let (width, height) = (u32::try_from(WIDTH)?, u32::try_from(HEIGHT)?);
    let mut picture = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
    picture.set_color(png::ColorType::Rgba);
    picture.set_compression(png::Compression::Fast);
    picture.write_header()?.write_image_data(pixels)?;
    Ok(())
}
