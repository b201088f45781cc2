//! A host and a pool of workers: the host asks for the tiles of a picture, all at once, and shows the progress of each worker. Run it with
//!
//! ```text
//! cargo run --release --example mandelbrot [picture.bmp]
//! ```
//!
//! Without a path the picture goes to the directory for temporary files. There is a worker for each processor; all are processes of this
//! program. A tile is idempotent: if a worker dies, another one paints what it had begun.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;
use witrpc::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 960;
/// Tiles are squares.
const TILE: u32 = 160;
const MAX_STEPS: u8 = 255;
/// Few points take many steps: this lets the others be seen.
const BRIGHTNESS: u8 = 8;

/// What a worker does.
#[witrpc::service]
pub(crate) trait Renderer {
    /// The tile with this corner: a byte per pixel, row by row.
    #[witrpc(blocking, idempotent)]
    async fn tile(&self, left: u32, top: u32) -> witrpc::Result<Blob>;
    /// A row of a tile is done; which, is nobody's concern.
    #[event]
    fn row_done(&self) -> &Event<()>;
}

#[derive(Default)]
struct Painter {
    row_done: Event<()>,
}

impl Renderer for Painter {
    async fn tile(&self, left: u32, top: u32) -> witrpc::Result<Blob> {
        let call = CallContext::current();
        let mut pixels = Vec::new();
        for y in top..top + TILE {
            if call.is_cancelled() {
                return Err(witrpc::Error::Cancelled);
            }
            pixels.extend((left..left + TILE).map(|x| shade(x, y)));
            self.row_done.raise(())?;
        }
        Ok(pixels.into())
    }

    fn row_done(&self) -> &Event<()> {
        &self.row_done
    }
}

/// The brighter, the more steps it takes the point of this pixel to leave the circle; black if it stays.
fn shade(x: u32, y: u32) -> u8 {
    let scale = 3.0 / f64::from(WIDTH);
    let re = f64::from(x).mul_add(scale, -2.2);
    let im = (f64::from(y) - f64::from(HEIGHT) / 2.0) * scale;
    let (mut a, mut b) = (0.0, 0.0);
    for step in 0..MAX_STEPS {
        if a * a + b * b > 4.0 {
            return step.saturating_mul(BRIGHTNESS);
        }
        (a, b) = (a * a - b * b + re, 2.0 * a * b + im);
    }
    0
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        let painter = RendererServer::new(Painter::default());
        return Ok(Agent::from_env()?.with_service(painter).run().await?);
    }
    let default = || std::env::temp_dir().join("witrpc-mandelbrot.bmp");
    let path = std::env::args_os().nth(1).map_or_else(default, PathBuf::from);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    // Tiles of the same size take more or less long: each goes to whichever worker is free first.
    let pool = Pool::of_workers(workers, Worker::this_program).with_calls_per_worker(1);
    let pool = pool.spawn().await?;
    let picture = render(&pool).await?;
    let state = pool.state();
    pool.shutdown(Duration::from_secs(2)).await;
    write(&path, &picture)?;
    let tiles: Vec<_> = state.members.iter().map(|member| member.calls.to_string()).collect();
    println!("{} tiles are in {}", corners().count(), path.display());
    println!("painted by {} workers: {}", workers, tiles.join(" + "));
    Ok(())
}

/// All tiles, put together.
async fn render(pool: &Pool) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let renderer = pool.get_service::<RendererClient>();
    let mut rows = pool.subscribe(|renderer: &RendererClient| renderer.row_done());
    let mut tiles = JoinSet::new();
    for (left, top) in corners() {
        let tile = renderer.tile(left, top);
        tiles.spawn(async move { tile.await.map(|pixels| (left, top, pixels)) });
    }
    let (mut done, mut percent, all) = (Vec::new(), 0, u64::from(WIDTH / TILE * HEIGHT));
    let mut picture = vec![0; (WIDTH * HEIGHT) as usize];
    while !tiles.is_empty() {
        tokio::select! {
            biased;
            Some((worker, row)) = rows.next() => {
                if done.len() <= worker {
                    done.resize(worker + 1, 0);
                }
                done[worker] += match row {
                    Ok(()) => 1,
                    Err(EventError::Lagged(rows)) => rows,
                    // A worker was replaced, or has gone: others go on.
                    Err(EventError::Reconnected | EventError::Closed(_)) => 0,
                    Err(error) => return Err(error.into()),
                };
                let sum = done.iter().sum::<u64>();
                if sum * 100 / all > percent {
                    percent = sum * 100 / all;
                    eprint!("\r{percent:>3} % of {all} rows, by the workers {done:?}");
                }
            }
            Some(tile) = tiles.join_next() => {
                let (left, top, pixels) = tile??;
                place(&mut picture, &pixels, (left, top));
            }
        }
    }
    eprintln!();
    Ok(picture)
}

fn corners() -> impl Iterator<Item = (u32, u32)> {
    (0..HEIGHT / TILE)
        .flat_map(|row| (0..WIDTH / TILE).map(move |column| (column * TILE, row * TILE)))
}

fn place(picture: &mut [u8], tile: &[u8], (left, top): (u32, u32)) {
    for (y, row) in (top..).zip(tile.chunks(TILE as usize)) {
        let at = (y * WIDTH + left) as usize;
        picture[at..at + row.len()].copy_from_slice(row);
    }
}

/// A bitmap (BMP): a header, and three bytes per pixel without compression. The bottom row comes first.
fn write(path: &Path, picture: &[u8]) -> Outcome {
    const HEADER: u32 = 54;
    let size = WIDTH * HEIGHT * 3;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(b"BM")?;
    // The size of the file, nothing, and where the pixels begin. Then the rest of the header: its size, and the picture's.
    for number in [HEADER + size, 0, HEADER, 40, WIDTH, HEIGHT] {
        file.write_all(&number.to_le_bytes())?;
    }
    // One plane of 24 bits per pixel, not compressed; a resolution and a palette are not given.
    for number in [1_u16, 24].into_iter().chain([0; 12]) {
        file.write_all(&number.to_le_bytes())?;
    }
    for row in picture.chunks(WIDTH as usize).rev() {
        for &shade in row {
            file.write_all(&[shade; 3])?;
        }
    }
    Ok(file.flush()?)
}
