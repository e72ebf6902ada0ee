package codec

import "strings"

// ForVersion returns the codec that a Phoenix client asks for with its vsn parameter: PhoenixV1 for a version that
// matches Elixir's `~> 1.0.0` (1.0.0 and above, below 1.1.0), PhoenixV2 for `~> 2.0.0`. It returns false for any
// other version and for text that is none; a version is MAJOR.MINOR.PATCH with the pre-release and build tags of
// semantic versioning. As a pre-release is below its release, 2.0.0-rc.1 does not match and 2.0.1-rc.1 does. A client
// without the parameter speaks 1.0.0, which is for the caller to say: the empty string is no version.
func ForVersion(vsn string) (Kind, bool) {
	rest, build, hasBuild := strings.Cut(vsn, "+")
	number, pre, hasPre := strings.Cut(rest, "-")
	major, rest, _ := strings.Cut(number, ".")
	minor, patch, _ := strings.Cut(rest, ".")
	switch {
	case minor != "0", !isNumber(patch):
		return 0, false
	case hasPre && (patch == "0" || !isPreRelease(pre)):
		return 0, false
	case hasBuild && !isBuild(build):
		return 0, false
	}
	switch major {
	case "1":
		return PhoenixV1, true
	case "2":
		return PhoenixV2, true
	}
	return 0, false
}

// isPreRelease tells whether tag is identifiers with dots between them, those made of digits without leading zeros.
func isPreRelease(tag string) bool {
	for id := range strings.SplitSeq(tag, ".") {
		if !isIdentifier(id) || isDigits(id) && !isNumber(id) {
			return false
		}
	}
	return true
}

// isBuild tells whether tag is identifiers with dots between them.
func isBuild(tag string) bool {
	for id := range strings.SplitSeq(tag, ".") {
		if !isIdentifier(id) {
			return false
		}
	}
	return true
}

// isIdentifier tells whether id is one or more of [0-9A-Za-z-].
func isIdentifier(id string) bool {
	for i := range len(id) {
		switch c := id[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-':
		default:
			return false
		}
	}
	return id != ""
}

// isNumber tells whether text is digits without a leading zero.
func isNumber(text string) bool {
	return isDigits(text) && (text[0] != '0' || len(text) == 1)
}

func isDigits(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return text != ""
}
