package policy

// Match compiles a text with wildcards, as a condition's value or as an action,
// and matches it. steps are the comparisons of characters that it took.
func Match(text, value string, action bool) (matched bool, steps int, problem string) {
	p, problem := compilePattern(text, wildcards)
	if problem != "" {
		return false, 0, problem
	}
	c := cursor{rest: value, fold: action}
	matched = c.run(p.pieces)
	return matched, c.steps, ""
}
