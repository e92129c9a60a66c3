package policy

import "slices"

// Conditions are the conditions of a statement as written, for an administrator;
// Got stays empty. A place where no statement stands has none.
func (p *Policy) Conditions(statement int) []ConditionTrace {
	if statement < 0 || statement >= len(p.statements) {
		return nil
	}
	var all []ConditionTrace
	for _, c := range p.statements[statement].conditions {
		all = append(all, ConditionTrace{Operator: c.operator, Key: c.name, Wanted: slices.Clone(c.wanted)})
	}
	return all
}
