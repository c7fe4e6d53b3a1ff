//! TLS as libpq's `sslmode` means it, on rustls.
//!
//! `require` encrypts and looks at nothing, `verify-ca` wants a known authority, `verify-full` also
//! the host's name. A failure is never answered by going on in the clear, except where the mode
//! itself says so ([`crate::connect`] decides). One addition to rustls: a server certificate that
//! is itself in the file of authorities is trusted, as with libpq; self-signed ones are made as
//! authorities by `openssl req -x509`, which webpki refuses to see at the end of a chain.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tidemark_core::catalogue::codes;
use tidemark_core::{Error, Result};

use crate::config::{ConnectConfig, RootCertificates, Side, SslMode};
use crate::error::pick;

mod certificate;

pub(crate) use certificate::server_end_point;

/// What to check of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

/// The client side of TLS for a mode that may use it. Reads files; call it off the hot path.
pub(crate) fn client_config(config: &ConnectConfig, mode: SslMode) -> Result<Arc<ClientConfig>> {
    let check = match mode {
        SslMode::VerifyFull => Check::AuthorityAndName,
        SslMode::VerifyCa => Check::Authority,
        _ => Check::Nothing,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(config, check, Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(config.side, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut tls = match &config.ssl_client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = read_certificates(config.side, cert)?;
            let key_der = read_key(config.side, key)?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| {
                    let what = format!(
                        "{} and {} do not fit together",
                        cert.display(),
                        key.display()
                    );
                    file_error(config.side, &what).caused_by(error)
                })?
        }
    };
    // PostgreSQL 17 refuses direct connections without it and ignores it otherwise.
    tls.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Arc::new(tls))
}

/// The name to check and to send (SNI) for a host of the URL.
pub(crate) fn server_name(side: Side, host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|error| {
        let code = pick(side, codes::SOURCE_UNRESOLVED, codes::TARGET_UNRESOLVED);
        Error::definite(code, format!("{side}: not a valid host name")).caused_by(error)
    })
}

/// Decides what a failed handshake means. `None`: these bytes are not TLS at all.
pub(crate) fn classify(side: Side, error: &rustls::Error) -> Option<Error> {
    use CertificateError as C;
    let (code, sentence) = match error {
        rustls::Error::InvalidCertificate(
            C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
        ) => (
            pick(side, codes::SOURCE_TLS_EXPIRED, codes::TARGET_TLS_EXPIRED),
            "the certificate is not valid at this time",
        ),
        rustls::Error::InvalidCertificate(
            C::NotValidForName | C::NotValidForNameContext { .. },
        ) => (
            pick(
                side,
                codes::SOURCE_TLS_WRONG_HOST,
                codes::TARGET_TLS_WRONG_HOST,
            ),
            "the certificate is for another host",
        ),
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => (
            pick(
                side,
                codes::SOURCE_TLS_UNTRUSTED,
                codes::TARGET_TLS_UNTRUSTED,
            ),
            "the certificate is not trusted",
        ),
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => (
            pick(side, codes::SOURCE_TLS_FILES, codes::TARGET_TLS_FILES),
            "the server refuses our client certificate (sslcert)",
        ),
        rustls::Error::InvalidMessage(_) => return None,
        _ => (
            pick(side, codes::SOURCE_TLS_FAILED, codes::TARGET_TLS_FAILED),
            "the TLS handshake fails",
        ),
    };
    Some(Error::definite(code, format!("{side}: {sentence}")).caused_by(error.clone()))
}

fn is_about_our_certificate(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    )
}

fn failed(side: Side, error: rustls::Error) -> Error {
    let code = pick(side, codes::SOURCE_TLS_FAILED, codes::TARGET_TLS_FAILED);
    Error::definite(code, format!("{side}: TLS cannot be set up")).caused_by(error)
}

fn file_error(side: Side, what: &str) -> Error {
    let code = pick(side, codes::SOURCE_TLS_FILES, codes::TARGET_TLS_FILES);
    Error::definite(code, format!("{side}: {what}"))
}

fn read_file(side: Side, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        file_error(side, &format!("cannot read {}", path.display())).caused_by(error)
    })
}

fn read_certificates(side: Side, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read_file(side, path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            file_error(side, &format!("{} is not a PEM file", path.display())).caused_by(error)
        })?;
    if certificates.is_empty() {
        return Err(file_error(
            side,
            &format!("{} holds no certificate", path.display()),
        ));
    }
    Ok(certificates)
}

fn read_key(side: Side, path: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = read_file(side, path)?;
    let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
    if encrypted {
        let what = format!(
            "the key in {} is encrypted; give one without a passphrase",
            path.display()
        );
        return Err(file_error(side, &what));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let what = format!("{} holds no private key in PEM form", path.display());
        file_error(side, &what).caused_by(error)
    })
}

/// Checks as much as the mode asks for.
#[derive(Debug)]
struct Verifier {
    check: Check,
    /// Authorities of the file, byte for byte.
    pinned: Vec<CertificateDer<'static>>,
    webpki: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        config: &ConnectConfig,
        check: Check,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier> {
        let mut verifier = Verifier {
            check,
            pinned: Vec::new(),
            webpki: None,
            provider,
        };
        if check == Check::Nothing {
            return Ok(verifier);
        }
        let mut roots = RootCertStore::empty();
        let origin = if let Some(RootCertificates::File(path)) = &config.ssl_root {
            verifier.pinned = read_certificates(config.side, path)?;
            roots.add_parsable_certificates(verifier.pinned.iter().cloned());
            path.display().to_string()
        } else {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            "this machine's trust store".to_owned()
        };
        if roots.is_empty() {
            let what = format!("no usable authority in {origin}; name a file with sslrootcert");
            return Err(file_error(config.side, &what));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&verifier.provider),
        )
        .build()
        .map_err(|error| {
            file_error(config.side, &format!("cannot use {origin}")).caused_by(error)
        })?;
        verifier.webpki = Some(webpki);
        Ok(verifier)
    }

    /// A certificate that is listed itself: no chain to check, only its dates and name.
    fn verify_pinned(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (not_before, not_after) = certificate::validity(certificate).ok_or(
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding),
        )?;
        if now.as_secs() < not_before {
            return Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet,
            ));
        }
        if now.as_secs() > not_after {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
        }
        if self.check == Check::AuthorityAndName {
            let parsed = ParsedCertificate::try_from(certificate)?;
            rustls::client::verify_server_name(&parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(webpki) = &self.webpki else {
            return Ok(ServerCertVerified::assertion());
        };
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return self.verify_pinned(end_entity, server_name, now);
        }
        let verified =
            webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // rustls checks the name last, after chain, dates and usage.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Authority => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
