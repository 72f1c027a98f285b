"""Media types by the endings of names: a table of our own, so that no host's ``mime.types`` decides. Pure.

IANA's names where programs know them. What people read as text, programs' sources too, is ``text/plain``: browsers then show
it instead of saving it.
"""

import codecs
from functools import lru_cache

UNKNOWN = "application/octet-stream"

_TABLE = """
text/plain               txt text log ini conf cfg cnf properties env toml lock diff patch nfo srt sub ass lrc list
text/plain               c h cc cpp cxx hh hpp hxx cs java kt kts scala groovy go rs swift m mm d zig nim dart pas ada adb ads
text/plain               py pyi pyx rb pl pm php lua tcl r jl hs lhs ml mli fs fsx ex exs erl hrl clj cljs lisp el scm rkt
text/plain               sh bash zsh fish ksh awk sed bat cmd ps1 psm1 vbs asm s sql graphql proto tf tfvars nix cmake mk mak
text/plain               make gradle sbt bazel bzl dockerfile gitignore gitattributes editorconfig service timer socket
text/plain               tsx jsx vue svelte scss sass less styl coffee rst adoc asciidoc org tex sty cls bib textile wiki
text/plain               desktop reg inf pem crt csr pub asc sfv md5 sha1 sha256 sha512 cue m3u strings po pot dtd
text/markdown            md markdown mkd mdown
text/yaml                yaml yml
text/csv                 csv
text/tab-separated-values tsv tab
text/css                 css
text/html                html htm shtml
text/javascript          js mjs cjs
text/vtt                 vtt
text/calendar            ics ifb
text/vcard               vcf vcard
text/troff               roff man me ms
application/xhtml+xml    xhtml xht
application/xml          xml xsl xsd rng plist wsdl
application/xslt+xml     xslt
application/rss+xml      rss
application/atom+xml     atom
application/rdf+xml      rdf
application/mathml+xml   mml mathml
application/gpx+xml      gpx
application/vnd.google-earth.kml+xml kml
application/ttml+xml     ttml dfxp
application/json         json map webmanifest ipynb
application/ld+json      jsonld
application/geo+json     geojson
application/x-ndjson     ndjson jsonl
image/jpeg               jpg jpeg jpe jfif pjpeg
image/png                png
image/apng               apng
image/gif                gif
image/webp               webp
image/avif               avif avifs
image/heic               heic heics
image/heif               heif heifs hif
image/jxl                jxl
image/jp2                jp2 jpg2
image/bmp                bmp dib
image/tiff               tif tiff
image/x-icon             ico cur
image/svg+xml            svg
image/vnd.adobe.photoshop psd
image/x-adobe-dng        dng
image/x-canon-cr2        cr2
image/x-canon-cr3        cr3
image/x-nikon-nef        nef
image/x-sony-arw         arw
image/x-fuji-raf         raf
image/x-olympus-orf      orf
image/x-panasonic-rw2    rw2
image/vnd.djvu           djvu djv
video/mp4                mp4 m4v mp4v
video/webm               webm
video/ogg                ogv
video/x-matroska         mkv mk3d
video/quicktime          mov qt
video/x-msvideo          avi
video/x-ms-wmv           wmv
video/x-ms-asf           asf
video/x-flv              flv
video/mpeg               mpg mpeg mpe m1v m2v vob
video/mp2t               ts m2ts mts
video/3gpp               3gp
video/3gpp2              3g2
audio/mpeg               mp3 mp2 mpga
audio/mp4                m4a m4b m4r
audio/aac                aac adts
audio/ogg                ogg oga opus spx
audio/flac               flac
audio/wav                wav wave
audio/webm               weba
audio/x-matroska         mka
audio/x-aiff             aif aiff aifc
audio/basic              au snd
audio/midi               mid midi kar
audio/amr                amr
audio/x-ms-wma           wma
audio/x-ape              ape
audio/x-mpegurl          m3u8
audio/x-scpls            pls
font/woff                woff
font/woff2               woff2
font/ttf                 ttf
font/otf                 otf
font/collection          ttc
application/pdf          pdf
application/postscript   ps eps ai
application/rtf          rtf
application/epub+zip     epub
application/x-mobipocket-ebook mobi prc
application/vnd.amazon.ebook azw azw3
application/msword       doc dot
application/vnd.ms-excel xls xlt
application/vnd.ms-powerpoint ppt pps
application/vnd.ms-outlook msg
application/vnd.openxmlformats-officedocument.wordprocessingml.document docx
application/vnd.openxmlformats-officedocument.wordprocessingml.template dotx
application/vnd.openxmlformats-officedocument.spreadsheetml.sheet xlsx
application/vnd.openxmlformats-officedocument.spreadsheetml.template xltx
application/vnd.openxmlformats-officedocument.presentationml.presentation pptx
application/vnd.openxmlformats-officedocument.presentationml.slideshow ppsx
application/vnd.oasis.opendocument.text odt
application/vnd.oasis.opendocument.spreadsheet ods
application/vnd.oasis.opendocument.presentation odp
application/vnd.oasis.opendocument.graphics odg
application/vnd.oasis.opendocument.formula odf
application/vnd.oasis.opendocument.database odb
application/vnd.visio    vsd vsdx
message/rfc822           eml mht mhtml
application/mbox         mbox
application/zip          zip
application/gzip         gz tgz
application/x-bzip2      bz2 tbz2
application/x-xz         xz txz
application/zstd         zst tzst
application/x-7z-compressed 7z
application/vnd.rar      rar
application/x-tar        tar
application/java-archive jar
application/vnd.debian.binary-package deb
application/x-rpm        rpm
application/vnd.android.package-archive apk
application/x-apple-diskimage dmg
application/x-iso9660-image iso
application/wasm         wasm
application/vnd.sqlite3  sqlite sqlite3 db3
application/x-bittorrent torrent
application/pgp-encrypted gpg pgp
application/pkcs8        p8
application/x-pkcs12     p12 pfx
"""


def _parse(table: str) -> dict[str, str]:
    rows = (line.split() for line in table.splitlines() if line)
    return {ending: kind for kind, *endings in rows for ending in endings}


_TYPES = _parse(_TABLE)

_TEXTUAL = frozenset(("application/json", "application/ld+json", "application/geo+json", "application/x-ndjson"))


def media_type(name: bytes) -> str:
    """Return the media type for a name's ending."""
    dot = name.rfind(b".")
    return _type_of_ending(name[dot + 1 :]) if dot >= 0 else UNKNOWN


@lru_cache(1024)
def _type_of_ending(ending: bytes) -> str:
    return _TYPES.get(ending.decode("latin-1").lower(), UNKNOWN)


def is_text(kind: str) -> bool:
    """Return whether a media type is text, so that its charset matters."""
    return kind.startswith("text/") or kind in _TEXTUAL or is_xml(kind)


def is_xml(kind: str) -> bool:
    """Return whether a media type is XML's (RFC 7303)."""
    return kind in ("application/xml", "text/xml") or kind.endswith("+xml")


def is_active(kind: str) -> bool:
    """Return whether a browser runs scripts in a file of that type."""
    return kind == "text/html" or is_xml(kind)


def is_utf8(start: bytes, *, whole: bool) -> bool:
    """Return whether ``start``, the beginning of a file, is valid UTF-8; a code point may be cut off at its end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start, final=whole)
    except UnicodeDecodeError:
        return False
    return True
