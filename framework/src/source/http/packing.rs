//! Bodies that come packed (`Content-Encoding`), and how they are unpacked as they come.
//!
//! Whatever the body says of itself, unpacking takes no more memory than a window of 16 MiB, the largest that brotli has
//! in HTTP; zstd gets the 8 MiB of RFC 9659. A body that wants a larger one is refused.

use std::io;

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// The largest window of zstd, as a power of two.
const ZSTD_WINDOW: u32 = 23;
/// What is unpacked at once, in bytes.
const PIECE: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Packing {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Packing {
    /// How a request's body is packed; an error is the name of a way that is not known.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut names = headers.get_all(CONTENT_ENCODING).iter();
        let Some(name) = names.next() else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(name.as_bytes()).to_ascii_lowercase();
        // Packed twice is not known either.
        match (&*name, names.next()) {
            ("identity", None) => Ok(None),
            ("gzip" | "x-gzip", None) => Ok(Some(Packing::Gzip)),
            ("deflate", None) => Ok(Some(Packing::Deflate)),
            ("br", None) => Ok(Some(Packing::Brotli)),
            ("zstd", None) => Ok(Some(Packing::Zstd)),
            _ => Err(name),
        }
    }

    /// The body unpacked, of which at most `limit` packed bytes are read.
    pub(super) fn unpack(self, body: Body, limit: usize) -> Body {
        let pieces = Limited::new(body, limit).into_data_stream().map(|piece| piece.map_err(io::Error::other));
        match self {
            Packing::Gzip => {
                let mut decoder = GzipDecoder::new(StreamReader::new(pieces));
                decoder.multiple_members(true);
                unpacked(decoder)
            }
            Packing::Deflate => unpacked(ZlibDecoder::new(StreamReader::new(pieces))),
            Packing::Brotli => unpacked(BrotliDecoder::new(StreamReader::new(small_window(pieces)))),
            Packing::Zstd => {
                let window = [DParameter::window_log_max(ZSTD_WINDOW)];
                let mut decoder = ZstdDecoder::with_params(StreamReader::new(pieces), &window);
                decoder.multiple_members(true);
                unpacked(decoder)
            }
        }
    }
}

fn unpacked(decoder: impl AsyncRead + Send + 'static) -> Body {
    Body::from_stream(ReaderStream::with_capacity(decoder, PIECE))
}

/// Refuses brotli with a "large window", of up to a gibibyte, which HTTP does not have and the decoder takes. What its
/// first byte says is reserved otherwise (RFC 7932, section 9.1).
fn small_window(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let mut at_start = true;
    pieces.map(move |piece| {
        let piece = piece?;
        if let (true, Some(first)) = (at_start, piece.first()) {
            at_start = false;
            if first & 0x7f == 0x11 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its window is larger than HTTP allows"));
            }
        }
        Ok(piece)
    })
}
