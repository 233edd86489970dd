//! Pipeline descriptions: the text of `pipelines/<family>.launch` and a ladder enter, one launch line leaves. Pure, but for
//! [`load`], which reads a file that replaces a built-in description.
//!
//! A description has two sections, `[input]` and `[rung]`, and named placeholders in braces. Lines that start with `#`
//! are comments. The worker finds elements by name: `input`, `decoder`, and per rung `branch_N`, `feed_N`, `encoder_N`, `output_N`.

use std::path::Path;

use super::{Family, Rung, ladder::VBV_MS};

/// What is wrong with a description. All of it is the administrator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read pipeline description {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("pipeline description has no [{0}] section")]
    NoSection(&'static str),
    #[error("pipeline description line {line}: no value is called {name:?}")]
    Placeholder { line: usize, name: String },
    #[error("pipeline description has no element called {0:?}")]
    NoElement(String),
}

/// The description that comes with the binary.
pub fn built_in(family: Family) -> &'static str {
    match family {
        Family::X264 => include_str!("../../pipelines/x264.launch"),
        Family::Vaapi => include_str!("../../pipelines/vaapi.launch"),
        Family::Nvenc => include_str!("../../pipelines/nvenc.launch"),
    }
}

/// Gives the description of a family: the folder's if it has one, else the built-in.
pub fn load(family: Family, folder: Option<&Path>) -> Result<String, Error> {
    let Some(folder) = folder else { return Ok(built_in(family).to_owned()) };
    let path = folder.join(format!("{}.launch", family.name()));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(built_in(family).to_owned()),
        Err(source) => Err(Error::Read { path: path.display().to_string(), source }),
    }
}

/// The source as far as a description depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub width: u32,
    pub height: u32,
    /// Frames per second, as a fraction.
    pub fps: (u32, u32),
}

impl Source {
    fn fps(&self) -> f64 {
        f64::from(self.fps.0) / f64::from(self.fps.1.max(1))
    }
}

/// Pixels per second one decoding thread carries with half in reserve; measured 330 M/s on a 2020 server core.
const DECODE_PER_THREAD: f64 = 150e6;
/// The same for one encoding thread; measured 120 M/s.
const ENCODE_PER_THREAD: f64 = 60e6;

/// Pixels up to which a picture is so cheap to encode that a better search for motion costs next to nothing.
const SMALL: u32 = 110_000;

/// Below so many frames per second there are no B-frames: a chunk of 1 s must hold more frames than an encoder holds back.
const REORDER_FPS: f64 = 6.0;

/// Fills a description in for a ladder, largest rung first.
pub fn render(text: &str, source: Source, rungs: &[Rung]) -> Result<String, Error> {
    let (input, rung) = (section(text, "input")?, section(text, "rung")?);
    let source_rate = f64::from(source.width) * f64::from(source.height) * source.fps();
    let decoder_threads = threads(source_rate, DECODE_PER_THREAD).to_string();
    let mut out = String::new();
    fill(&mut out, &input, &|name| (name == "decoder_threads").then(|| decoder_threads.clone()))?;
    for (index, r) in rungs.iter().enumerate() {
        let parent = parent(rungs, index).map_or("raw".to_owned(), |p| format!("raw_{p}"));
        fill(&mut out, &rung, &|name| {
            Some(match name {
                "index" => index.to_string(),
                "parent" => parent.clone(),
                "width" => r.width.to_string(),
                "height" => r.height.to_string(),
                "bitrate_kbps" => r.bitrate_kbps.to_string(),
                "vbv_ms" => VBV_MS.to_string(),
                "vbv_kbit" => (r.bitrate_kbps * VBV_MS / 1000).to_string(),
                "bframes" => if source.fps() < REORDER_FPS { "0" } else { "3" }.to_owned(),
                "subme" => if r.width * r.height <= SMALL { "2" } else { "1" }.to_owned(),
                "encoder_threads" => threads(r.pixel_rate(source.fps()), ENCODE_PER_THREAD).to_string(),
                _ => return None,
            })
        })?;
    }
    let names = ["branch", "feed", "encoder", "output"];
    let per_rung = (0..rungs.len()).flat_map(|i| names.map(|name| format!("{name}_{i}")));
    for element in ["input", "decoder"].map(str::to_owned).into_iter().chain(per_rung) {
        if !out.split_whitespace().any(|word| word.strip_prefix("name=") == Some(&element)) {
            return Err(Error::NoElement(element));
        }
    }
    Ok(out)
}

/// Which rung's raw picture rung `index` is scaled from; the decoder's when none.
///
/// The smallest that is still half again as large: from there a two-tap scaler loses nothing that shows, and little is read.
/// A rung whose frames are thinned out serves only rungs with the same cap.
pub fn parent(rungs: &[Rung], index: usize) -> Option<usize> {
    let r = &rungs[index];
    (0..index).rev().find(|&p| {
        let p = &rungs[p];
        2 * p.height >= 3 * r.height
            && 2 * p.width >= 3 * r.width - 4
            && (p.fps_max.is_none() || p.fps_max == r.fps_max)
    })
}

fn threads(rate: f64, per_thread: f64) -> u32 {
    ((rate / per_thread).ceil() as u32).clamp(1, 8)
}

/// A section of the description of still pictures, filled in.
pub fn still(name: &'static str, values: &[(&str, u32)]) -> Result<String, Error> {
    let lines = section(include_str!("../../pipelines/still.launch"), name)?;
    let mut out = String::new();
    fill(&mut out, &lines, &|name| {
        values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
    })?;
    Ok(out)
}

/// The lines of a section with their numbers, without comments.
fn section<'a>(text: &'a str, name: &'static str) -> Result<Vec<(usize, &'a str)>, Error> {
    let head = format!("[{name}]");
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    lines.find(|(_, line)| *line == head).ok_or(Error::NoSection(name))?;
    let is_head = |line: &str| line.starts_with('[') && line.ends_with(']');
    Ok(lines.take_while(|(_, l)| !is_head(l)).filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).collect())
}

fn fill(out: &mut String, lines: &[(usize, &str)], value: &dyn Fn(&str) -> Option<String>) -> Result<(), Error> {
    for &(line, mut text) in lines {
        while let Some((before, rest)) = text.split_once('{') {
            let (name, after) = rest.split_once('}').unwrap_or((rest, ""));
            out.push_str(before);
            out.push_str(&value(name).ok_or_else(|| Error::Placeholder { line, name: name.to_owned() })?);
            text = after;
        }
        out.push_str(text);
        out.push('\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Rendition;

    fn rung(name: &str, width: u32, height: u32, bitrate_kbps: u32, fps_max: Option<u32>) -> Rung {
        Rung { name: Rendition::new(name).unwrap(), width, height, fps_max, bitrate_kbps }
    }

    fn ladder() -> Vec<Rung> {
        vec![
            rung("480p", 854, 480, 1200, None),
            rung("360p", 640, 360, 700, None),
            rung("160p", 284, 160, 250, Some(30)),
        ]
    }

    const HD: Source = Source { width: 1280, height: 720, fps: (60, 1) };

    #[test]
    fn x264_description_is_as_reviewed() {
        insta::assert_snapshot!(render(built_in(Family::X264), HD, &ladder()).unwrap());
    }

    #[test]
    fn every_built_in_description_fills_in() {
        for family in Family::ALL {
            let text = render(built_in(family), HD, &ladder()).unwrap();
            assert!(!text.contains('{') && text.contains("name=output_2"), "{text}");
        }
    }

    #[test]
    fn still_pictures_fill_in() {
        let text = still("decode", &[("width", 160), ("height", 90)]).unwrap();
        assert!(text.contains("width=160,height=90") && !text.contains("jpegenc") && !text.contains('{'), "{text}");
        let text = still("encode", &[("quality", 80)]).unwrap();
        assert!(text.contains("jpegenc quality=80") && !text.contains('['), "{text}");
    }

    #[test]
    fn rungs_scale_from_the_smallest_picture_that_is_large_enough() {
        let full = [
            rung("1080p", 1920, 1080, 1, None),
            rung("720p", 1280, 720, 1, None),
            rung("480p", 854, 480, 1, None),
            rung("360p", 640, 360, 1, None),
            rung("160p", 284, 160, 1, None),
        ];
        assert_eq!((0..5).map(|i| parent(&full, i)).collect::<Vec<_>>(), [None, Some(0), Some(1), Some(1), Some(3)]);
        let capped =
            [rung("a", 1280, 720, 1, Some(30)), rung("b", 640, 360, 1, None), rung("c", 320, 180, 1, Some(30))];
        assert_eq!((0..3).map(|i| parent(&capped, i)).collect::<Vec<_>>(), [None, None, Some(1)]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("[input]\nx", "pipeline description has no [rung] section"),
            ("[input]\n{what}\n[rung]\n", "pipeline description line 2: no value is called \"what\""),
            ("[input]\nappsrc name=input\n[rung]\n", "pipeline description has no element called \"decoder\""),
        ] {
            assert_eq!(render(text, HD, &ladder()).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_folder_replaces_only_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x264.launch"), "mine").unwrap();
        assert_eq!(load(Family::X264, Some(folder.path())).unwrap(), "mine");
        assert_eq!(load(Family::Nvenc, Some(folder.path())).unwrap(), built_in(Family::Nvenc));
    }
}
