//! The embedder's vectors of all texts, in memory and in a file that grows as they are made.
//!
//! Owns both. It promises that the file holds what the memory holds, so that a saved run need not embed again what was
//! embedded; since it only grows, each vector is sent to the store once. It does not embed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use candle_core::{Device, Tensor};
use forebay::{Context, Error, Result};

use crate::words::{floats_of_bytes, floats_to_bytes};

/// The name of the file in the workplace: values of 32 bits, the lowest byte first, vector after vector.
pub(super) const FILE: &str = "vectors.f32";

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// Vectors of `width` values each, by the places of their texts.
pub(super) struct Vectors {
    width: usize,
    values: Vec<f32>,
    file: File,
}

impl Vectors {
    /// None yet, of so many texts, in a file of their own in `folder`.
    pub(super) fn create(folder: &Path, width: usize, texts: usize) -> Result<Self> {
        let path = folder.join(FILE);
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { width, values: Vec::with_capacity(width * texts), file })
    }

    /// Those that are in the file in `folder`, of so many texts in all.
    ///
    /// # Errors
    /// `Failed` where it cannot be read or ends within a vector.
    pub(super) fn open(folder: &Path, width: usize, texts: usize) -> Result<Self> {
        let path = folder.join(FILE);
        let name = || path.display().to_string();
        let file = File::open(&path).with_context(name)?;
        let bytes = file.metadata().with_context(name)?.len();
        if !bytes.is_multiple_of(4 * width as u64) {
            return Err(Error::failed(format!("{bytes} saved bytes are no whole number of vectors of {width} values")));
        }
        let mut values = Vec::with_capacity(width * texts);
        let mut piece = Vec::with_capacity(PIECE);
        while (&file).take(PIECE as u64).read_to_end(&mut piece).with_context(name)? > 0 {
            values.extend(floats_of_bytes(FILE, &piece)?);
            piece.clear();
        }
        let file = OpenOptions::new().append(true).open(&path).with_context(name)?;
        Ok(Self { width, values, file })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Adds vectors.
    pub(super) fn push(&mut self, vectors: &[Vec<f32>]) -> Result<()> {
        if let Some(wrong) = vectors.iter().find(|vector| vector.len() != self.width) {
            return Err(Error::failed(format!("a vector of {} values, not {}", wrong.len(), self.width)));
        }
        let values = vectors.concat();
        self.file.write_all(&floats_to_bytes(&values)).with_context(|| format!("writing {FILE}"))?;
        self.values.extend(values);
        Ok(())
    }

    /// The vector of the text at a place, if it is there.
    pub(super) fn row(&self, text: u32) -> Option<&[f32]> {
        self.values.chunks_exact(self.width).nth(text as usize)
    }

    /// The vectors of some texts, in rows, in the order of their places here.
    pub(super) fn rows(&self, texts: impl Iterator<Item = u32>, device: &Device) -> Result<Tensor> {
        let mut values = Vec::new();
        for text in texts {
            let missing = || Error::failed(format!("text {text} was not embedded"));
            values.extend_from_slice(self.row(text).ok_or_else(missing)?);
        }
        let rows = values.len() / self.width;
        Ok(Tensor::from_vec(values, (rows, self.width), device)?)
    }
}
