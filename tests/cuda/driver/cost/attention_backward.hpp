// Products of a gradient: four for that of keys and values, three for that of queries.
inline played::Cost beside(const std::string &name, dim3, const Attending &s) {
    double each = 2. * s.batch * s.queries * s.keys * s.heads * s.head;
    return {0, name.find("attend_keys") == 0 ? 4 * each : name.find("attend_queries") == 0 ? 3 * each : 0};
}
