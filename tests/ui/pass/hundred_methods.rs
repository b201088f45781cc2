//! A hundred methods in one trait.
#![deny(warnings, clippy::all, clippy::pedantic)]

/// Many.
#[witrpc::service]
pub trait Hundred {
    /// Number 0.
    async fn method_0(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 1.
    async fn method_1(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 2.
    async fn method_2(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 3.
    async fn method_3(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 4.
    async fn method_4(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 5.
    async fn method_5(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 6.
    async fn method_6(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 7.
    async fn method_7(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 8.
    async fn method_8(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 9.
    async fn method_9(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 10.
    async fn method_10(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 11.
    async fn method_11(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 12.
    async fn method_12(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 13.
    async fn method_13(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 14.
    async fn method_14(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 15.
    async fn method_15(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 16.
    async fn method_16(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 17.
    async fn method_17(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 18.
    async fn method_18(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 19.
    async fn method_19(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 20.
    async fn method_20(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 21.
    async fn method_21(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 22.
    async fn method_22(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 23.
    async fn method_23(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 24.
    async fn method_24(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 25.
    async fn method_25(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 26.
    async fn method_26(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 27.
    async fn method_27(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 28.
    async fn method_28(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 29.
    async fn method_29(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 30.
    async fn method_30(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 31.
    async fn method_31(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 32.
    async fn method_32(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 33.
    async fn method_33(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 34.
    async fn method_34(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 35.
    async fn method_35(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 36.
    async fn method_36(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 37.
    async fn method_37(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 38.
    async fn method_38(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 39.
    async fn method_39(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 40.
    async fn method_40(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 41.
    async fn method_41(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 42.
    async fn method_42(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 43.
    async fn method_43(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 44.
    async fn method_44(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 45.
    async fn method_45(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 46.
    async fn method_46(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 47.
    async fn method_47(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 48.
    async fn method_48(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 49.
    async fn method_49(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 50.
    async fn method_50(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 51.
    async fn method_51(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 52.
    async fn method_52(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 53.
    async fn method_53(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 54.
    async fn method_54(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 55.
    async fn method_55(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 56.
    async fn method_56(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 57.
    async fn method_57(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 58.
    async fn method_58(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 59.
    async fn method_59(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 60.
    async fn method_60(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 61.
    async fn method_61(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 62.
    async fn method_62(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 63.
    async fn method_63(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 64.
    async fn method_64(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 65.
    async fn method_65(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 66.
    async fn method_66(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 67.
    async fn method_67(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 68.
    async fn method_68(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 69.
    async fn method_69(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 70.
    async fn method_70(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 71.
    async fn method_71(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 72.
    async fn method_72(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 73.
    async fn method_73(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 74.
    async fn method_74(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 75.
    async fn method_75(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 76.
    async fn method_76(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 77.
    async fn method_77(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 78.
    async fn method_78(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 79.
    async fn method_79(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 80.
    async fn method_80(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 81.
    async fn method_81(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 82.
    async fn method_82(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 83.
    async fn method_83(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 84.
    async fn method_84(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 85.
    async fn method_85(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 86.
    async fn method_86(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 87.
    async fn method_87(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 88.
    async fn method_88(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 89.
    async fn method_89(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 90.
    async fn method_90(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 91.
    async fn method_91(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 92.
    async fn method_92(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 93.
    async fn method_93(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 94.
    async fn method_94(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 95.
    async fn method_95(&self, value: u64) -> witrpc::Result<u8>;
    /// Number 96.
    async fn method_96(&self, value: u8) -> witrpc::Result<u8>;
    /// Number 97.
    async fn method_97(&self, value: u16) -> witrpc::Result<u8>;
    /// Number 98.
    async fn method_98(&self, value: u32) -> witrpc::Result<u8>;
    /// Number 99.
    async fn method_99(&self, value: u64) -> witrpc::Result<u8>;
}

fn main() {
    let descriptor = <HundredClient as witrpc::__private::ServiceClient>::descriptor();
    let last = &descriptor.methods[99];
    assert_eq!((last.name, last.types), ("method_99", "(u64) -> Result<u8>"));
}
