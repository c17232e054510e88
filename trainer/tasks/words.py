"""Short English words of which problems are made."""

_TEXT = (
    "arm bag bed box boy bus cat cow cup day dog ear egg eye fox hat hen hill ice key lamp leg map milk moon nest "
    "oak pen pig pot rain ring road rock rope sand sea ship sky snow star sun tea toy tree van wall wind wood zoo "
)
WORDS = _TEXT.split()
