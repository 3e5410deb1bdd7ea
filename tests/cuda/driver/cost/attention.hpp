// Products of queries with keys, and of their powers with values; what a causal mask hides included.
inline played::Cost beside(const std::string &name, dim3, const Attending &s) {
    return {0, name == "attend_column" ? 0 : 4. * s.batch * s.queries * s.keys * s.heads * s.head};
}
