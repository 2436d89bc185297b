"""The text of a file: which charset its bytes are in."""

import codecs
import re

__all__ = ["NotText", "decode_text"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16's, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WESTERN = "cp1252"
# As browsers read them: https://encoding.spec.whatwg.org/#names-and-labels. Python's own lookup of names would keep
# every unknown one in memory, and knows codecs that are no charsets.
_CODECS: dict[str, tuple[str, ...]] = {
    "utf-8": ("utf8",),
    "utf-16-le": ("utf16", "utf16le"),
    "utf-16-be": ("utf16be",),
    "utf-32-le": ("utf32", "utf32le"),
    "utf-32-be": ("utf32be",),
    _WESTERN: ("windows1252", "cp1252", "iso88591", "latin1", "usascii", "ascii"),
    "cp932": ("shiftjis", "sjis", "windows31j", "cp932", "ms932"),
    "euc_jp": ("eucjp",),
    "iso2022_jp": ("iso2022jp",),
    "gb18030": ("gb18030", "gbk", "gb2312", "cp936"),
    "big5hkscs": ("big5", "big5hkscs", "cp950"),
    "cp949": ("euckr", "ksc56011987", "windows949", "cp949"),
    "koi8-r": ("koi8r",),
    "koi8-u": ("koi8u",),
    "mac-roman": ("macintosh", "macroman"),
    "iso8859-2": ("iso88592", "latin2"),
    "iso8859-15": ("iso885915", "latin9"),
    **{f"iso8859-{part}": (f"iso8859{part}",) for part in (3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 16)},
    **{f"cp{page}": (f"windows{page}", f"cp{page}") for page in (874, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 1258)},
    **{f"cp{page}": (f"cp{page}", f"ibm{page}") for page in (437, 850, 852, 866)},
}
_CODEC_OF = {label: codec for codec, labels in _CODECS.items() for label in labels}
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f]")  # not \x1a, the end of a DOS file, and not \x1b, escape
_ASCII = bytes(range(128))
_ASCII_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FEW = 20


class NotText(ValueError):
    """These bytes can't be read as text; its message is a sentence that says why and what to do."""


def decode_text(data: bytes, charset: str | None = None) -> tuple[str, str]:
    """The text of a file, without its byte order mark, and the codec it was read with.

    A byte order mark counts most, then the declared charset. Without both it is UTF-8 if the bytes are valid UTF-8,
    otherwise Windows-1252, which Excel writes CSV in on a Western Windows, if they look like it. Lone surrogates become
    U+FFFD.

    Args:
        data: the bytes of the file.
        charset: declared, or the codec an earlier call gave.

    Raises:
        NotText: the charset is unknown, the bytes are none of it, or they are no text in any that is tried.
    """
    found = next((codec for mark, codec in _BOMS if data.startswith(mark)), None)
    if found is None and charset is not None:
        found = _codec_of(charset)
    codec = found or _guessed(data)
    text = _read(data, codec).removeprefix("\ufeff")
    if "\x00" in text:
        raise NotText("It holds NUL characters, so it is not text.")
    return text, codec


def _codec_of(charset: str) -> str:
    label = "".join(char for char in charset.lower() if char.isalnum())
    codec = _CODEC_OF.get(label)
    if codec is None:
        raise NotText(f"Its charset {charset[:40]!r} is not known. Send it as UTF-8.")
    return codec


def _guessed(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return "utf-8"
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        if _looks_western(data):
            return _WESTERN
    else:
        return "utf-8"
    if _CONTROLS.search(data):
        raise NotText("It is not text: it holds control characters.")
    raise NotText(
        "Its charset could not be told. Send it as UTF-8, or name its charset in the media type, as in "
        "text/csv; charset=windows-1251."
    )


def _looks_western(data: bytes) -> bool:
    """Whether these bytes may be Windows-1252: no control characters, and more plain letters than others."""
    if _CONTROLS.search(data):
        return False
    try:
        data.decode(_WESTERN)
    except UnicodeDecodeError:
        return False  # five bytes have no meaning there, and are frequent in Japanese and Chinese charsets
    others = len(data.translate(None, _ASCII))
    letters = len(data) - len(data.translate(None, _ASCII_LETTERS))
    return others <= max(letters, _FEW)


def _read(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        if codec.startswith("utf"):
            try:
                return _LONE_SURROGATES.sub("\ufffd", data.decode(codec, "surrogatepass"))
            except UnicodeDecodeError:
                pass
        raise NotText(f"Its bytes are not {codec} at byte {error.start}. Declare the charset it is in.") from None
