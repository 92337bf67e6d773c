//! The documentation: the contract, `openapi.yaml`, as an interactive page that loads nothing from elsewhere.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use crate::{
    Context, Result, failed,
    process::Processes,
    root, say,
    tools::{Scripts, Tools},
};

const SWAGGER_UI: &str = "5.35.0";

const PAGE: &str = include_str!("../docs.html");

/// What the page uses of the viewer's package, and the licences.
const ASSETS: [(&str, &str); 7] = [
    ("swagger-ui.css", "text/css"),
    ("swagger-ui-bundle.js", "text/javascript"),
    ("favicon-16x16.png", "image/png"),
    ("favicon-32x32.png", "image/png"),
    ("LICENSE", "text/plain"),
    ("NOTICE", "text/plain"),
    ("swagger-ui-bundle.js.LICENSE.txt", "text/plain"),
];

/// Writes the page and all that it needs into a folder, for any web server.
pub(crate) fn write(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    let folder = match arguments {
        [] => target.join("docs"),
        [folder] if !folder.starts_with('-') => PathBuf::from(folder),
        _ => return failed("`docs` takes one argument, a folder; see `cargo xtask --help`"),
    };
    let package = viewer(processes, tools)?;
    fs::create_dir_all(&folder).context(format_args!("create {}", folder.display()))?;
    let write = || -> io::Result<()> {
        for (name, _) in ASSETS {
            fs::copy(package.join(name), folder.join(name))?;
        }
        fs::copy(root().join("openapi.yaml"), folder.join("openapi.yaml"))?;
        fs::write(folder.join("index.html"), PAGE)
    };
    write().context(format_args!("write into {}", folder.display()))?;
    say(format_args!("the documentation is {}", folder.join("index.html").display()));
    Ok(ExitCode::SUCCESS)
}

/// The folder of Swagger UI's package.
pub(crate) fn viewer(processes: &mut Processes, tools: &mut Tools) -> Result<PathBuf> {
    tools.npm_package(processes, "swagger-ui-dist", SWAGGER_UI, Scripts::Ignore)
}

/// Serves the page until the process ends. What is asked of the API is passed on to it: with one origin for both, "try
/// it out" shows every header of an answer, of which the CORS of `cargo lambda watch` would hide most.
pub(crate) fn serve(listener: TcpListener, viewer: PathBuf, api: u16) {
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let viewer = viewer.clone();
            // A client that is gone, or an API that is just being built, ends the connection.
            thread::spawn(move || drop(answer(client, &viewer, api)));
        }
    });
}

/// Answers one request and closes the connection.
fn answer(mut client: TcpStream, viewer: &Path, api: u16) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
    }
    let target = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    if target.starts_with(b"/api/") {
        return pass_on(&head, &mut reader, &mut client, api);
    }
    let (status, content_type, body) = match file(target, viewer)? {
        Some((content_type, body)) => ("200 OK", content_type, body),
        None => ("404 Not Found", "text/plain", b"Not found\n".to_vec()),
    };
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
         Cache-Control: no-cache\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    client.write_all(&body)
}

fn file(target: &[u8], viewer: &Path) -> io::Result<Option<(&'static str, Vec<u8>)>> {
    Ok(match target {
        b"/" => Some(("text/html", PAGE.into())),
        b"/openapi.yaml" => {
            let contract = fs::read_to_string(root().join("openapi.yaml"))?;
            // The API is where the page is.
            let contract = contract.replace("default: http://localhost:5000", "default: /");
            Some(("application/yaml", contract.into()))
        }
        _ => {
            let asset = ASSETS.iter().find(|(name, _)| target.strip_prefix(b"/") == Some(name.as_bytes()));
            match asset {
                Some((name, content_type)) => Some((content_type, fs::read(viewer.join(name))?)),
                None => None,
            }
        }
    })
}

/// Sends a request to the API, as the last one of its connection, and what comes back to the client.
fn pass_on(head: &[u8], body: &mut impl Read, client: &mut TcpStream, api: u16) -> io::Result<()> {
    let mut api = TcpStream::connect(("127.0.0.1", api))?;
    let mut length = 0;
    for (number, line) in head.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let text = String::from_utf8_lossy(line).to_ascii_lowercase();
        match text.split_once(':') {
            Some(("connection", _)) => continue,
            Some(("content-length", value)) => length = value.trim().parse().map_err(io::Error::other)?,
            _ => {}
        }
        api.write_all(line)?;
        if number == 0 {
            api.write_all(b"Connection: close\r\n")?;
        }
    }
    io::copy(&mut body.take(length), &mut api)?;
    io::copy(&mut api, client).map(drop)
}
