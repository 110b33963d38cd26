//! One frame: a header and a body. The 4-byte length before it is the Net's.
//!
//! Owns: the request header (versions 1 and 2) and the response header (0 and 1), and which of them
//! stands where. Promises: a header names an API and a version that this crate decodes, or the error
//! says what the connection must do.
//! Leaves out: who may send what, and the size limit of a frame (the Net refuses larger ones before
//! they are read).
//!
//! ```text
//! request   api key 2 │ version 2 │ correlation id 4 │ client id │ tags (flexible) │ body
//! response  correlation id 4 │ tags (flexible, but never ApiVersions) │ body
//! ```

use bytes::Bytes;

use crate::api::ApiKey;
use crate::ids::CorrelationId;
use crate::kafka::{DecodeError, EncodeError, Malformed, Reader, Request, Response, Source, Wire, Writer};

/// What stands before the body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API that is asked.
    pub api: ApiKey,
    /// Its version; always one that this crate decodes.
    pub version: i16,
    /// Comes back in the answer.
    pub correlation_id: CorrelationId,
    /// The name that the client gives itself; bytes that are not UTF-8 are replaced.
    pub client_id: Option<String>,
}

/// Why a frame is no request that we can decode; each variant names what the connection does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Answer ApiVersions in version 0 with UNSUPPORTED_VERSION (35) and go on.
    #[error("version {version} of ApiVersions is not known")]
    ApiVersionsTooNew {
        /// For the answer.
        correlation_id: CorrelationId,
        /// What was asked for.
        version: i16,
    },
    /// Close the connection.
    #[error("the API key {key} (version {version}) is not known")]
    UnknownApi {
        /// The key on the wire.
        key: i16,
        /// The version on the wire.
        version: i16,
    },
    /// Close the connection.
    #[error("version {version} of {} is not served", api.name())]
    UnsupportedVersion {
        /// The API that is asked.
        api: ApiKey,
        /// The version on the wire.
        version: i16,
    },
    /// Close the connection.
    #[error("the request header is malformed: {0}")]
    Malformed(#[from] DecodeError),
}

/// Splits a frame into its header and its body, without a copy.
///
/// # Errors
/// [`HeaderError`], see its variants.
pub fn decode_request_header(frame: Bytes) -> Result<(RequestHeader, Bytes), HeaderError> {
    let mut reader = Reader::new(frame, false);
    let key = i16::read(&mut reader, 0)?;
    let version = i16::read(&mut reader, 0)?;
    let correlation_id = CorrelationId::read(&mut reader, 0)?;
    let Some(api) = ApiKey::from_key(key) else { return Err(HeaderError::UnknownApi { key, version }) };
    if !api.has_version(version) {
        return Err(match api {
            ApiKey::ApiVersions => HeaderError::ApiVersionsTooNew { correlation_id, version },
            _ => HeaderError::UnsupportedVersion { api, version },
        });
    }
    // The client id keeps its old encoding in the flexible header too.
    let client_id = reader.lossy_text()?;
    if api.request_header_version(version) >= 2 {
        reader.set_flexible(true);
        skip_tags(&mut reader)?;
    }
    Ok((RequestHeader { api, version, correlation_id, client_id }, reader.rest()))
}

fn skip_tags(reader: &mut Reader) -> Result<(), DecodeError> {
    let mut tags = reader.tags(&[])?;
    while reader.next_tag(&mut tags)?.is_some() {
        reader.skip_tag(&tags)?;
    }
    Ok(())
}

/// Encodes a request as chunks, without the length prefix.
///
/// # Errors
/// [`EncodeError`]: a fault of the caller; nothing may be sent.
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: CorrelationId,
    client_id: Option<&str>,
    request: &R,
) -> Result<Vec<Bytes>, EncodeError> {
    if !R::API.has_version(version) {
        return Err(EncodeError::UnknownVersion(version));
    }
    let mut writer = Writer::new(false);
    R::API.key().write(&mut writer, 0);
    version.write(&mut writer, 0);
    correlation_id.write(&mut writer, 0);
    writer.text(client_id);
    if R::API.request_header_version(version) >= 2 {
        writer.varint(0);
    }
    writer.set_flexible(R::API.is_flexible(version));
    request.write(&mut writer, version);
    writer.finish()
}

/// Encodes a response as chunks, without the length prefix; record sets are referenced, not copied.
///
/// # Errors
/// [`EncodeError`]: close the connection, since the client waits for this answer.
pub fn encode_response<R: Response>(
    version: i16,
    correlation_id: CorrelationId,
    response: &R,
) -> Result<Vec<Bytes>, EncodeError> {
    if !R::API.has_version(version) {
        return Err(EncodeError::UnknownVersion(version));
    }
    let mut writer = Writer::new(false);
    correlation_id.write(&mut writer, 0);
    if R::API.response_header_version(version) >= 1 {
        writer.varint(0);
    }
    writer.set_flexible(R::API.is_flexible(version));
    response.write(&mut writer, version);
    writer.finish()
}

/// The correlation id of a response frame, to find the request that it answers.
///
/// # Errors
/// The frame is shorter than four bytes.
pub fn peek_correlation_id(frame: &Bytes) -> Result<CorrelationId, DecodeError> {
    CorrelationId::read(&mut Reader::new(frame.clone(), false), 0)
}

/// Decodes the response to a request of type `R` that was sent in `version`.
///
/// # Errors
/// [`DecodeError`]: close the connection.
pub fn decode_response<R: Request>(
    version: i16,
    frame: Bytes,
) -> Result<(CorrelationId, R::Response), DecodeError> {
    let mut reader = Reader::new(frame, false);
    let correlation_id = CorrelationId::read(&mut reader, 0)?;
    if !R::API.has_version(version) {
        return Err(reader.error(Malformed::UnknownVersion(version)));
    }
    if R::API.response_header_version(version) >= 1 {
        reader.set_flexible(true);
        skip_tags(&mut reader)?;
    }
    reader.set_flexible(R::API.is_flexible(version));
    let response = R::Response::read(&mut reader, version)?;
    reader.finish()?;
    Ok((correlation_id, response))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
    use crate::kafka::metadata::MetadataRequest;
    use crate::kafka::offset_delete::OffsetDeleteRequest;

    fn joined(chunks: Vec<Bytes>) -> Vec<u8> {
        chunks.concat()
    }

    #[test]
    fn an_old_header_ends_after_the_client_id() {
        let request = OffsetDeleteRequest::default();
        let frame = joined(encode_request(0, CorrelationId(7), Some("me"), &request).expect("it fits"));
        assert_eq!(frame[..12], [0, 47, 0, 0, 0, 0, 0, 7, 0, 2, b'm', b'e']);
        let (header, body) = decode_request_header(frame.into()).expect("we wrote it");
        assert_eq!(header.client_id.as_deref(), Some("me"));
        assert_eq!(OffsetDeleteRequest::decode(0, body), Ok(request));
    }

    #[test]
    fn a_flexible_header_keeps_the_old_client_id_and_has_tags() {
        let request = MetadataRequest::default();
        let frame = joined(encode_request(12, CorrelationId(-1), None, &request).expect("it fits"));
        assert_eq!(frame[..11], [0, 3, 0, 12, 255, 255, 255, 255, 255, 255, 0]);
        let mut tagged = frame.clone();
        tagged.splice(10..11, [2, 0, 1, 9, 5, 0]); // two unknown tags: 0 of one byte, 5 of none
        for frame in [frame, tagged] {
            let (header, body) = decode_request_header(frame.into()).expect("unknown tags are passed over");
            assert_eq!((header.api, header.version), (ApiKey::Metadata, 12));
            assert_eq!(MetadataRequest::decode(12, body), Ok(request.clone()));
        }
    }

    #[test]
    fn api_versions_answers_with_the_old_header_in_every_version() {
        for version in 0..=4 {
            let chunks = encode_response(version, CorrelationId(9), &ApiVersionsResponse::default());
            assert_eq!(joined(chunks.expect("it fits"))[..6], [0, 0, 0, 9, 0, 0], "id, then the error code");
        }
    }

    #[test]
    fn an_api_versions_request_from_the_future_can_still_be_answered() {
        let frame = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 5, 1, 2, 3]);
        let error = HeaderError::ApiVersionsTooNew { correlation_id: CorrelationId(5), version: 99 };
        assert_eq!(decode_request_header(frame), Err(error));
    }

    #[test]
    fn produce_below_3_and_unknown_keys_are_refused() {
        let refused = |bytes: &'static [u8]| decode_request_header(Bytes::from_static(bytes));
        let old = HeaderError::UnsupportedVersion { api: ApiKey::Produce, version: 2 };
        assert_eq!(refused(&[0, 0, 0, 2, 0, 0, 0, 1, 255, 255]), Err(old));
        let unknown = HeaderError::UnknownApi { key: 0x4745, version: 0x5420 };
        assert_eq!(refused(b"GET / HTTP/1.1"), Err(unknown));
        assert!(matches!(refused(&[0, 3, 0]), Err(HeaderError::Malformed(_))));
    }

    #[test]
    fn a_client_id_that_is_not_utf8_is_no_reason_to_refuse() {
        let frame = Bytes::from_static(&[0, 18, 0, 0, 0, 0, 0, 1, 0, 1, 0xff]);
        let (header, body) = decode_request_header(frame).expect("the client id is loose");
        assert_eq!(header.client_id.as_deref(), Some("\u{fffd}"));
        assert_eq!(ApiVersionsRequest::decode(0, body), Ok(ApiVersionsRequest::default()));
    }
}
