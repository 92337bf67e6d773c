//! The documentation: the contract, `openapi.yaml`, as an interactive page that loads nothing from elsewhere.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
};

use http_body_util::{Either, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;
use yaml_rust2::{Yaml, YamlLoader};

use crate::{
    Context, Result, contract, failed,
    process::Processes,
    root, say,
    server::{self, AnswerBody},
    tools::Tools,
    versions::SCALAR,
};

/// All that the page needs of the viewer's package.
const VIEWER: &str = "dist/browser/standalone.js";

const PAGE: &str = include_str!("../docs/index.html");
/// The viewer's package has no file with the text of its licence.
const LICENSE: &str = include_str!("../docs/scalar-license.txt");

/// Where a picture of the page says that the API is.
const GUIDE_PORT: u16 = 5000;

/// The browser asks nobody but this server, whatever the viewer would like, which compiles schemas and makes images.
const ONLY_FROM_HERE: &str = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:";

/// `cargo xtask docs`: writes the page into a folder, or takes a picture of it.
pub(crate) fn write(
    arguments: &[String],
    target: &Path,
    processes: &mut Processes,
    tools: &mut Tools,
) -> Result<ExitCode> {
    let folder = match arguments {
        [] => target.join("docs"),
        [folder] if !folder.starts_with('-') => PathBuf::from(folder),
        [option, file] if option == "--screenshot" => return take_screenshot(file, processes, tools),
        _ => return failed("`docs` takes a folder, or --screenshot and a file; see `cargo xtask --help`"),
    };
    write_into(&folder, &viewer(processes, tools)?)?;
    say(format_args!("the documentation is {}", folder.join("index.html").display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes the page and all that it needs into a folder, for any web server or to be opened as a file.
pub(crate) fn write_into(folder: &Path, viewer: &Path) -> Result<()> {
    let contract = contract_script(None).context("read openapi.yaml")?;
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("index.html"), PAGE)?;
        fs::write(folder.join("contract.js"), contract)?;
        fs::copy(contract_file(), folder.join("openapi.yaml"))?;
        fs::copy(viewer, folder.join("scalar.js"))?;
        fs::write(folder.join("scalar-license.txt"), LICENSE)
    };
    write().context(format_args!("write into {}", folder.display()))
}

/// Takes a picture of the page as `cargo xtask dev` serves it. It needs no API: nothing is sent.
fn take_screenshot(file: &str, processes: &mut Processes, tools: &mut Tools) -> Result<ExitCode> {
    let viewer = viewer(processes, tools)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on a port")?;
    let page = format!("http://localhost:{}/", listener.local_addr().context("listen on a port")?.port());
    serve(listener, viewer, GUIDE_PORT);
    contract::in_browser(&["screenshot", &page, file], processes, tools)?;
    Ok(ExitCode::SUCCESS)
}

/// The viewer, a script.
pub(crate) fn viewer(processes: &mut Processes, tools: &mut Tools) -> Result<PathBuf> {
    tools.npm_file(processes, "@scalar/api-reference", SCALAR, VIEWER)
}

/// Serves the page until the process ends. What is asked of the API is passed on to it: with one origin for both, every
/// header of an answer is shown, of which the CORS of `cargo lambda watch` would hide most.
pub(crate) fn serve(listener: TcpListener, viewer: PathBuf, api: u16) {
    server::serve(listener, move |request| {
        let viewer = viewer.clone();
        async move { answer(request, &viewer, api).await }
    });
}

async fn answer(request: Request<Incoming>, viewer: &Path, api: u16) -> Response<AnswerBody> {
    let path = request.uri().path();
    if path.starts_with("/api/") {
        return match server::pass_on(request, api).await {
            Ok(answer) => answer.map(Either::Right),
            Err(error) => {
                page(StatusCode::BAD_GATEWAY, "text/plain", format!("The API can't be reached: {error}\n"))
            }
        };
    }
    match file(path, viewer, api) {
        Ok(Some((content_type, content))) => page(StatusCode::OK, content_type, content),
        Ok(None) => page(StatusCode::NOT_FOUND, "text/plain", "Not found\n"),
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    }
}

fn page(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Left(Full::new(content.into())));
    *response.status_mut() = status;
    for (name, value) in
        [(CONTENT_TYPE, content_type), (CONTENT_SECURITY_POLICY, ONLY_FROM_HERE), (CACHE_CONTROL, "no-cache")]
    {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The content of a file and its type. The contract is read anew each time, so that a change shows.
fn file(path: &str, viewer: &Path, api: u16) -> io::Result<Option<(&'static str, Vec<u8>)>> {
    Ok(match path {
        "/" => Some(("text/html", PAGE.into())),
        "/contract.js" => Some(("text/javascript", contract_script(Some(api))?.into())),
        "/openapi.yaml" => Some(("application/yaml", fs::read(contract_file())?)),
        "/scalar.js" => Some(("text/javascript", fs::read(viewer)?)),
        "/scalar-license.txt" => Some(("text/plain", LICENSE.into())),
        _ => None,
    })
}

fn contract_file() -> PathBuf {
    root().join("openapi.yaml")
}

/// What the page takes from us: the contract, and where the API is if requests go to it by way of this server. It is a
/// script because a page that was opened as a file may read no other file.
fn contract_script(api: Option<u16>) -> io::Result<String> {
    let documents =
        YamlLoader::load_from_str(&fs::read_to_string(contract_file())?).map_err(io::Error::other)?;
    let contract = to_json(documents.first().unwrap_or(&Yaml::Null));
    let api = json!(api.map(|port| format!("http://localhost:{port}")));
    Ok(format!("const contract = {contract};\nconst api = {api};\n"))
}

/// In the order of the YAML, which a map of `serde_json` would sort.
fn to_json(yaml: &Yaml) -> String {
    match yaml {
        Yaml::Hash(members) => {
            let members: Vec<_> =
                members.iter().map(|(name, it)| format!("{}:{}", to_json(name), to_json(it))).collect();
            format!("{{{}}}", members.join(","))
        }
        Yaml::Array(items) => format!("[{}]", items.iter().map(to_json).collect::<Vec<_>>().join(",")),
        Yaml::String(text) => json!(text).to_string(),
        Yaml::Integer(number) => number.to_string(),
        Yaml::Real(number) => number.clone(),
        Yaml::Boolean(truth) => truth.to_string(),
        Yaml::Null | Yaml::Alias(_) | Yaml::BadValue => "null".to_owned(),
    }
}
