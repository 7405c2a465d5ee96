//! Drawing.

use std::fs;
use std::path::Path;

use inferno::flamegraph::{self, Options};

use crate::error::Error;
use crate::fold::Stacks;

/// Largest graph, in bytes, that is kept in the repository.
const MOST: usize = 400 << 10;

/// Draws stacks into a file.
pub(crate) fn write(stacks: &Stacks, title: &str, file: &Path) -> Result<(), Error> {
    let svg = draw(stacks, title)?;
    fs::write(file, svg).map_err(Error::io(format!("writing {}", file.display())))
}

fn draw(stacks: &Stacks, title: &str) -> Result<Vec<u8>, Error> {
    let lines = stacks.lines();
    // Frames too thin to see cost as many bytes as others.
    for least in [0.1, 0.3, 1.0] {
        let mut options = Options::default();
        options.title = title.to_owned();
        options.font_size = 11;
        options.image_width = Some(1600);
        options.min_width = least;
        options.count_name = "samples".to_owned();
        // Colours by name: two recordings of one scenario can be laid side by side.
        options.hash = true;
        let mut svg = Vec::new();
        flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg).map_err(Error::io("drawing"))?;
        if svg.len() <= MOST {
            return Ok(svg);
        }
    }
    Err(Error::Failed(format!("drawing {title}: found more than {MOST} bytes; record for fewer --seconds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_names_its_origin_and_its_frames() {
        let stacks = Stacks::read("w;table::find 60\nw;racing::copy 40\n");
        let svg = String::from_utf8(draw(&stacks, "server-st: bench & co").unwrap()).unwrap();
        assert!(svg.contains("server-st: bench &amp; co"), "the title");
        assert!(svg.contains("table::find (60 samples, 60.00%)"), "a frame");
    }

    #[test]
    fn many_thin_frames_stay_below_the_limit() {
        let folded: String = (0..20_000).map(|n| format!("w;function_with_a_name_of_some_length_{n} 1\n")).collect();
        assert!(draw(&Stacks::read(&folded), "t").unwrap().len() <= MOST);
    }
}
