//! A worker tries what it must not do, once as it is and once in a sandbox, and reports what became of it. Linux only. Run it with
//!
//! ```text
//! cargo run --release --features sandbox --example sandbox
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("Sandboxes are for Linux.");
}

/// Not `#[tokio::main]`: the agent comes before all threads.
#[cfg(target_os = "linux")]
fn main() -> suspect::Outcome {
    use witrpc::Agent;

    if Agent::is_announced() {
        let agent = Agent::from_env()?.with_service(suspect::service());
        return Ok(tokio::runtime::Runtime::new()?.block_on(agent.run())?);
    }
    tokio::runtime::Runtime::new()?.block_on(suspect::host())
}

#[cfg(target_os = "linux")]
mod suspect {
    use std::fs::{self, File};
    use std::io::{Error, ErrorKind, Result};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;
    use std::time::Instant;

    use witrpc::{Descriptor, Sandbox, prelude::*};

    pub(super) type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

    /// More than the confined worker may have.
    const ONE_GIGABYTE: usize = 1 << 30;

    /// What it tries; somebody listens on this port.
    type Deed = fn(port: u16) -> Result<()>;

    const DEEDS: [(&str, Deed); 11] = [
        ("read a file", |_| fs::read("/etc/passwd").map(drop)),
        ("list a directory", |_| fs::read_dir("/home").map(drop)),
        ("write a file", |_| {
            let path = std::env::temp_dir().join("witrpc-example-sandbox");
            fs::write(&path, "x")?;
            fs::remove_file(path)
        }),
        ("open a socket", |_| TcpListener::bind(("127.0.0.1", 0)).map(drop)),
        ("connect to a port", |port| TcpStream::connect(("127.0.0.1", port)).map(drop)),
        ("send a datagram", |port| {
            UdpSocket::bind(("127.0.0.1", 0))?.send_to(b"x", ("127.0.0.1", port)).map(drop)
        }),
        ("start a program", |_| Command::new("/bin/true").status().map(drop)),
        ("open its host's memory", |_| {
            let host = std::os::unix::process::parent_id();
            File::open(format!("/proc/{host}/mem")).map(drop)
        }),
        ("read its host's environment", |_| {
            let host = std::os::unix::process::parent_id();
            fs::read(format!("/proc/{host}/environ")).map(drop)
        }),
        ("allocate 1 GiB", |_| {
            let reserved = Vec::<u8>::new().try_reserve_exact(ONE_GIGABYTE);
            reserved.map_err(|_| ErrorKind::OutOfMemory.into())
        }),
        ("start a thread", |_| {
            let thread = std::thread::Builder::new().spawn(|| ())?;
            thread.join().map_err(|_| Error::other("it has panicked"))
        }),
    ];

    #[witrpc::service]
    trait Suspect {
        /// Tries the deed of this number, and returns what became of it.
        #[witrpc(blocking)]
        async fn attempt(&self, deed: usize, port: u16) -> witrpc::Result<String>;
        async fn add(&self, a: u64, b: u64) -> witrpc::Result<u64>;
        /// Reads a file that the host has opened.
        async fn read(&self, file: Descriptor) -> witrpc::Result<String>;
    }

    struct Worst;

    impl Suspect for Worst {
        async fn attempt(&self, deed: usize, port: u16) -> witrpc::Result<String> {
            let (_, attempt) = DEEDS[deed];
            Ok(match attempt(port) {
                Ok(()) => "done".to_owned(),
                Err(error) => format!("refused: {error}"),
            })
        }

        async fn add(&self, a: u64, b: u64) -> witrpc::Result<u64> {
            Ok(a + b)
        }

        async fn read(&self, file: Descriptor) -> witrpc::Result<String> {
            let file = File::from(file.take().await?);
            std::io::read_to_string(file).map_err(witrpc::Error::fault)
        }
    }

    pub(super) fn service() -> impl witrpc::Service {
        SuspectServer::new(Worst)
    }

    pub(super) async fn host() -> Outcome {
        let sandbox = Sandbox::compute()
            .with_max_memory(256 << 20)
            .with_cpu_time(Duration::from_secs(60))
            .with_max_descriptors(64);
        let free = Worker::this_program().spawn().await?;
        let confined = Worker::this_program().with_sandbox(sandbox).spawn().await?;
        let [one, other]: [SuspectClient; 2] = [free.get_service(), confined.get_service()];
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        println!("{:<30}{:<10}in a sandbox", "", "free");
        for (number, (name, _)) in DEEDS.iter().enumerate() {
            let answers = [one.attempt(number, port).await?, other.attempt(number, port).await?];
            println!("{name:<30}{:<10}{}", answers[0], answers[1]);
        }
        let [one, other] = [microseconds(&one).await?, microseconds(&other).await?];
        println!("{:<30}{:<10}{other:.2} µs", "call and answer", format!("{one:.2} µs"));
        let file = File::open("/etc/passwd")?;
        let text = confined.get_service::<SuspectClient>().read(file.into()).await?;
        println!("It reads what its host has opened for it: {} bytes.", text.len());
        Ok(())
    }

    /// The median of many calls, one after the other.
    async fn microseconds(suspect: &SuspectClient) -> witrpc::Result<f64> {
        let mut times = Vec::new();
        for number in 0..20_000 {
            let began = Instant::now();
            suspect.add(number, 1).await?;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_secs_f64() * 1e6)
    }
}
